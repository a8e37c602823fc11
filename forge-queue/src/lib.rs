//! Tasks that survive a crash, the workflow engine and its journal.
