"""Networks that colour lightness, and how they learn; nothing here is needed to serve them."""
