"""HTTP clients for jobs: a direct one, and one for services behind a proxy."""
