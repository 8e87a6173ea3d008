"""The standby's gate as the data plane."""
