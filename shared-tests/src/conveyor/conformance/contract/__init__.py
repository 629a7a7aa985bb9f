"""The contract, call by call: what each call of a store promises."""
