"""The whole product on one machine without containers: everything under one supervisor."""
