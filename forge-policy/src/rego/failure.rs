//! Why there is no answer: each of them is a denial.

use regorus::LimitError;
use regorus::rvm::vm::VmError;

/// Why an evaluation gave no usable answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// No policies are loaded.
    NoPolicy,
    /// There is no data for this tenant.
    UnknownTenant,
    /// The input breaks its rules: a size, a word.
    Input,
    /// The policy has no value, also where two rules disagree or a builtin failed on the way.
    Undefined,
    /// The value is not a decision: unknown keys, words or types, a denial without a reason, a question nobody may answer.
    Shape,
    /// The evaluator gave up.
    Error,
    /// It took too many instructions, too long, or too large a pattern.
    Limit,
    /// The evaluator panicked.
    Panic,
}

impl Failure {
    /// The reason code of the denial.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoPolicy => "policy_no_policy",
            Self::UnknownTenant => "policy_unknown_tenant",
            Self::Input => "policy_input",
            Self::Undefined => "policy_undefined",
            Self::Shape => "policy_shape",
            Self::Error => "policy_error",
            Self::Limit => "policy_limit",
            Self::Panic => "policy_panic",
        }
    }

    pub(super) fn of_vm(e: &VmError) -> Self {
        match e {
            VmError::InstructionLimitExceeded { .. }
            | VmError::TimeLimitExceeded { .. }
            | VmError::MemoryLimitExceeded { .. }
            | VmError::MemoryBudgetExceeded { .. }
            | VmError::RegexSizeLimitExceeded { .. } => Self::Limit,
            _ => Self::Error,
        }
    }

    pub(super) fn of_interpreter(is_limit: Option<&LimitError>) -> Self {
        if is_limit.is_some() { Self::Limit } else { Self::Error }
    }
}
