"""The ImportExampleGen component: reads TFRecords, and stops the run at a record that cannot be used."""
