//! Driver error to [`forge_core::Error`]: the one place that knows both.

use forge_core::{Error, ErrorKind, Retryability};
use rusqlite::ErrorCode;

/// Translates an error of the driver in `operation`. The statement and its values stay out of the text.
pub fn error(operation: &'static str) -> impl Fn(rusqlite::Error) -> Error {
    move |e| {
        let (kind, message) = match e.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                (ErrorKind::Unavailable, "another process holds the database for too long")
            }
            Some(ErrorCode::DiskFull) => (ErrorKind::Unavailable, "the disk is full; free some space and try again"),
            Some(ErrorCode::ReadOnly) => {
                (ErrorKind::Unavailable, "the database is read-only; check the file's owner and mode")
            }
            Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                (ErrorKind::Unavailable, "the database cannot be opened; check path, owner and mode")
            }
            Some(ErrorCode::SystemIoFailure) => (
                ErrorKind::Unavailable,
                "the disk failed or has no room; free some space, look at its health, and try again",
            ),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                (ErrorKind::Corrupt, "the file is damaged or not a database; restore it from a backup")
            }
            Some(ErrorCode::ConstraintViolation) => (ErrorKind::Conflict, "a row with this key is already there"),
            Some(ErrorCode::TooBig) => (ErrorKind::InvalidInput, "the value is too large"),
            _ => (ErrorKind::Unexpected, "the statement failed"),
        };
        // a full or read-only disk does not mend within a retry's backoff
        let lasting = matches!(
            e.sqlite_error_code(),
            Some(ErrorCode::DiskFull | ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied)
        );
        let mut out = Error::new(kind, operation, message).with_adapter("sqlite");
        if lasting {
            out = out.with_retry(Retryability::Never);
        }
        out.with_source(e)
    }
}

/// The error for a stored value that does not parse.
pub fn corrupt(operation: &'static str, what: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, operation, "a stored value does not parse").with("what", what).with_adapter("sqlite")
}
