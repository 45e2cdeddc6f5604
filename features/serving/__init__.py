"""Online: who is trusted, and how it is looked up. Nothing in here imports TensorFlow or Beam."""
