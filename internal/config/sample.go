package config

import _ "embed"

//go:embed sample.yml
var sample string

// Sample returns a commented configuration to begin with. Load accepts it.
func Sample() string { return sample }
