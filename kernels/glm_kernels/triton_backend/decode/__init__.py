"""One token of decoding, of the recurrence and of the SSM: a state is read and written in place.

launch       how the kernels are launched
kernels      kernels
"""
