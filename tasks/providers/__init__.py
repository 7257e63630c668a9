"""Adapters to the providers' SDKs. Each makes one wire call at a time and reports what happened in our terms."""
