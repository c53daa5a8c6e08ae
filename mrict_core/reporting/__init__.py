"""Tables and figures. The only room that imports matplotlib."""
