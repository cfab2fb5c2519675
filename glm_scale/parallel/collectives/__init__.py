"""What ranks send one another: one contract, over torch.distributed or among the threads of a simulator."""
