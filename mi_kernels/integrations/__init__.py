"""Connect merges to other tools through their extension points. Only the tool or its user imports each of them."""
