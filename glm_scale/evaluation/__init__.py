"""What a model can do, asked in many documents at once."""
