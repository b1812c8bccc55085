"""`provider-agent support-bundle`: what a maintainer needs to see, safe to publish."""
