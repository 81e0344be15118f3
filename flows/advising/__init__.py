"""`tutelage advise`: from a model, a machine, data and a goal to stages with their settings, and the reason of each."""
