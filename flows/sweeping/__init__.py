"""`tutelage sweep`: settings of a stage are tried out, and chosen by the gate's metric on samples that no gate asks."""
