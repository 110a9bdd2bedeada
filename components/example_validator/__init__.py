"""The ExampleValidator component: stops the run if the examples do not match the schema, or have drifted."""
