"""What is asked: definitions of attributes, and who registers them."""
