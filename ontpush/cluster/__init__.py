"""The cluster's side: believes nothing until it is checked, and tells somebody."""
