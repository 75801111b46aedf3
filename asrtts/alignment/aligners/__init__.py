"""What finds the times: a name that a person writes is a file here, which gives `align`."""
