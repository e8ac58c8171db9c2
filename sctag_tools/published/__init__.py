"""The published method as its code runs, each of its departures from the paper a switch."""
