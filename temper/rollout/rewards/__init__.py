"""Built-in rewards, one family per file; each says its range. The registry group `reward` names them."""
