"""Who answers, and what wraps them. Every annotator is asynchronous and passes through the answers store."""
