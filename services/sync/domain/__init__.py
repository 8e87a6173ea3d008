"""What is to be copied when: values in, values out."""
