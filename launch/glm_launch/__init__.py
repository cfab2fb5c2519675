"""Starting runs on other machines. Knows commands, not tensors."""
