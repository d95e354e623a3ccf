//! The hard part of seven well-known systems as libraries, on the database you already run.
