"""What runs a model: one protocol, and the choice."""
