"""The ComponentResources of a fleet. They know no platform and read no configuration, environment or clock."""
