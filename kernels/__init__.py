"""The numeric kernels that klieg exists for, each with its plain truth beside it."""
