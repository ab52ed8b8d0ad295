"""The scripts that make the coupon plugin's table."""
