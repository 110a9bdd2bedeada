"""The Pusher component: TFX's Pusher, but it pushes atomically and requires two blessings."""
