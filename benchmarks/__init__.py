"""Speed, beside peers and in the same run: ratios, not seconds."""
