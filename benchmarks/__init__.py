"""What the product measures of itself, beside others, against targets that are data."""
