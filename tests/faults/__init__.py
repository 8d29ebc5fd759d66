"""What happens when everything fails: after any fault the old image, the new one, or a typed error."""
