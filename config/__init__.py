"""Configuration at every level: process settings, the database session, logging, secrets and integration settings."""
