//! One immutable set of policies and data, and how it decides.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use forge_core::policy::PolicyInput;
use forge_core::{Error, ExecutionContext, Result, TenantId};
use regorus::languages::rego::compiler::Compiler;
use regorus::rvm::program::Program;
use regorus::rvm::vm::RegoVM;
use regorus::{Engine, LimitError, Value};

use super::answer::Answer;
use super::checks::Check;
use super::sources::{Resolved, Sources, config};
use super::{Failure, Limits, gate, input};

/// The policy's name in decisions.
pub(super) const POLICY: &str = "forge.tool_access";
/// The rule that is asked.
pub(super) const ENTRY: &str = "data.forge.tool_access.decision";

/// At least so long may a check take.
const CHECK_TIME: Duration = Duration::from_secs(5);

/// What evaluates a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evaluator {
    /// The bytecode machine: a few microseconds a decision.
    Machine,
    /// The interpreter, prepared anew for each decision: some hundred microseconds and more.
    Interpreter,
}

enum Code {
    Machine(Arc<Program>),
    /// Cloned for each decision; the lock is held for the clone alone.
    Interpreter(Box<Mutex<Engine>>),
}

pub(super) struct Snapshot {
    pub(super) revision: String,
    code: Code,
    tenants: HashMap<TenantId, Sees>,
}

/// What the decisions of one tenant work with.
struct Sees {
    /// All that they may see: `{"tenant", "shared"}`.
    data: Value,
    /// Machines between two decisions, with this data loaded: they are this tenant's alone.
    idle: Mutex<Vec<RegoVM>>,
}

/// So many machines a tenant are kept.
const IDLE: usize = 4;

impl Snapshot {
    /// Reads, admits, compiles and checks. Blocks.
    pub(super) fn build(sources: &Sources, limits: &Limits) -> Result<Self> {
        let resolved = sources.resolve()?;
        let mut engine = Engine::new();
        // where nobody gathers them, prints go to the process's standard error, with whatever the input holds
        engine.set_gather_prints(true);
        engine.set_strict_builtin_errors(true);
        for (name, text) in &resolved.policies {
            engine.add_policy(name.clone(), text.clone()).map_err(|e| not_rego(name, e.into()))?;
        }
        gate::admit(engine.get_modules(), POLICY)?;
        let compiled = engine.clone().compile_with_entrypoint(&ENTRY.into()).map_err(|e| not_rego("", e.into()))?;
        let code = match Compiler::compile_from_policy(&compiled, &[ENTRY]) {
            Ok(program) => Code::Machine(program),
            Err(e) => {
                tracing::warn!(error = %e.to_string().lines().last().unwrap_or_default(), "the bytecode compiler refuses the policy: decisions will be slow");
                Code::Interpreter(Box::new(Mutex::new(engine.clone())))
            }
        };
        let shared = value(&resolved.shared)?;
        run_checks(&resolved, &shared, &code, &engine, limits)?;
        let sees = |(tenant, data): (&TenantId, &serde_json::Value)| {
            let data = visible(Some(value(data)?), &shared);
            Ok((tenant.clone(), Sees { data, idle: Mutex::default() }))
        };
        let tenants = resolved.tenants.iter().map(sees).collect::<Result<_>>()?;
        Ok(Self { revision: resolved.digest().to_string(), code, tenants })
    }

    pub(super) fn evaluator(&self) -> Evaluator {
        match self.code {
            Code::Machine(_) => Evaluator::Machine,
            Code::Interpreter(_) => Evaluator::Interpreter,
        }
    }

    pub(super) fn decide(
        &self,
        ctx: &ExecutionContext,
        input: &PolicyInput,
        limits: &Limits,
    ) -> Result<Answer, Failure> {
        let sees = self.tenants.get(ctx.tenant()).ok_or(Failure::UnknownTenant)?;
        let input = input::document(ctx, input, limits.input_bytes)?;
        let value = match &self.code {
            Code::Machine(program) => sees.on_machine(program, input, limits),
            Code::Interpreter(engine) => {
                let engine = engine.lock().unwrap_or_else(PoisonError::into_inner).clone();
                on_interpreter(engine, sees.data.clone(), input, limits)
            }
        }?;
        Answer::read(&value)
    }
}

impl Sees {
    /// On a machine that answered before, or on a fresh one. What does not answer is not used again: a panic or a limit leaves
    /// nothing behind for the next decision.
    fn on_machine(&self, program: &Arc<Program>, input: Value, limits: &Limits) -> Result<Value, Failure> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle().pop();
        let (value, vm) = caught(|| {
            let vm = match kept {
                Some(vm) => vm,
                None => machine(program, self.data.clone(), limits)?,
            };
            answered(vm, input)
        })?;
        let mut idle = idle();
        if idle.len() < IDLE {
            idle.push(vm);
        }
        Ok(value)
    }
}

fn machine(program: &Arc<Program>, data: Value, limits: &Limits) -> Result<RegoVM, Failure> {
    let mut vm = RegoVM::new();
    vm.load_program(program.clone());
    vm.set_max_instructions(limits.instructions);
    vm.set_execution_timer_config(Some(limits.timer()));
    vm.set_data(data).map_err(|e| Failure::of_vm(&e))?;
    Ok(vm)
}

fn answered(mut vm: RegoVM, input: Value) -> Result<(Value, RegoVM), Failure> {
    vm.set_input(input);
    let value = vm.execute_entry_point_by_index(0).map_err(|e| Failure::of_vm(&e))?;
    Ok((value, vm))
}

/// On a machine for this question alone.
fn on_machine(program: &Arc<Program>, data: Value, input: Value, limits: &Limits) -> Result<Value, Failure> {
    caught(|| answered(machine(program, data, limits)?, input).map(|(value, _)| value))
}

fn on_interpreter(mut engine: Engine, data: Value, input: Value, limits: &Limits) -> Result<Value, Failure> {
    caught(|| {
        engine.clear_data();
        engine.add_data(data).map_err(|_| Failure::Error)?;
        engine.set_execution_timer_config(limits.timer());
        engine.set_input(input);
        engine.eval_rule(ENTRY.to_owned()).map_err(|e| Failure::of_interpreter(e.downcast_ref::<LimitError>()))
    })
}

fn caught<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(Failure::Panic))
}

fn run_checks(resolved: &Resolved, shared: &Value, code: &Code, engine: &Engine, limits: &Limits) -> Result<()> {
    // the interpreter, on a machine that may be starting up: nobody waits for a decision here
    let limits = &limits.with_time(limits.time.max(CHECK_TIME));
    for (file, text) in &resolved.checks {
        for check in Check::read(file, text)? {
            let data = visible(check.tenant.as_ref().map(value).transpose()?, shared);
            let input = value(&check.input)?;
            let failed = |failure: Failure| {
                config("a check of the policies could not be evaluated")
                    .with("file", file.clone())
                    .with("because", failure.reason())
            };
            let machine = match code {
                Code::Machine(program) => {
                    Some(on_machine(program, data.clone(), input.clone(), limits).map_err(failed)?)
                }
                Code::Interpreter(_) => None,
            };
            let interpreter = on_interpreter(engine.clone(), data, input, limits).map_err(failed)?;
            check.judge(file, machine.as_ref(), &interpreter)?;
        }
    }
    Ok(())
}

fn visible(tenant: Option<Value>, shared: &Value) -> Value {
    let mut data = BTreeMap::from([(Value::from("shared"), shared.clone())]);
    if let Some(tenant) = tenant {
        data.insert(Value::from("tenant"), tenant);
    }
    data.into()
}

/// By serde: `Value::from` would make an error undefined, and undefined data is data that no rule looks at.
fn value(json: &serde_json::Value) -> Result<Value> {
    serde_json::from_value(json.clone())
        .map_err(|e| config("the data holds a value that Rego does not know").with_source(e))
}

/// regorus puts `--> file:line:column` first and `error: what` last, with the source's text between them.
fn not_rego(name: &str, e: Box<dyn std::error::Error + Send + Sync>) -> Error {
    let text = e.to_string();
    let place = text.lines().find_map(|l| l.trim().strip_prefix("--> ")).unwrap_or_default();
    let mut parts = place.rsplitn(3, ':');
    let (column, line, file) =
        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next().unwrap_or(name));
    let what = text.lines().last().map(|l| l.trim_start_matches("error: ").to_owned()).unwrap_or_default();
    config("the policy does not compile")
        .with("file", file)
        .with("line", line)
        .with("column", column)
        .with("because", what)
        .with_source(e)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::standard;
    use super::*;

    /// Each value of one field with each of the others: what the shipped policy looks at, and what it should not trip over.
    fn inputs() -> Vec<serde_json::Value> {
        let mut all =
            vec![json!({"employee_id": "ana", "doc_tags": [], "on_behalf_of": null, "security_level": "internal"})];
        let fields = [
            ("role", json!(["analyst", "lawyer", "nobody"])),
            ("action", json!(["tool.call", "model.complete", "model.route"])),
            ("candidates", json!([[], ["local/small", "big"]])),
            ("tool_name", json!(["slack_post", "payout", "local/small"])),
            ("effect", json!(["read", "send", null])),
            ("resource", json!([{}, {"channel": "#legal"}])),
            ("pii_flags", json!([[], ["EMAIL", "SECRET"]])),
            ("compliance_flags", json!([[], ["gdpr"], ["eu", "few"], ["lost"]])),
        ];
        for (field, values) in fields {
            let with = |base: &serde_json::Value, v: &serde_json::Value| {
                let mut next = base.clone();
                next[field] = v.clone();
                next
            };
            all = all.iter().flat_map(|base| values.as_array().unwrap().iter().map(move |v| with(base, v))).collect();
        }
        all
    }

    #[test]
    fn machine_and_interpreter_agree_on_the_shipped_policy() {
        let limits = Limits::default().with_time(Duration::from_secs(10));
        let shared = json!({"compliance": {"eu": {"model_allow": ["local/small"]}, "few": {"max_rows": 3, "redact_input": ["EMAIL"]}}});
        let sources = standard().with_shared_data(shared);
        let resolved = sources.resolve().unwrap();
        let snapshot = Snapshot::build(&sources, &limits).unwrap();
        let Code::Machine(program) = &snapshot.code else { panic!("the policy is not compiled") };
        let mut engine = Engine::new();
        engine.set_strict_builtin_errors(true);
        for (name, text) in resolved.policies {
            engine.add_policy(name, text).unwrap();
        }
        let full = json!({"grants": {"analyst": ["tool.call:*", "model.complete:local/small"], "lawyer": []}, "send_allow": {"slack_post": ["#legal"]},
            "employees": {"ana": {"role": "analyst"}}, "always_approve": ["payout"], "approvers": ["lawyer"]});
        let shared = value(&resolved.shared).unwrap();
        let mut verdicts = std::collections::BTreeMap::new();
        for (tenant, every) in [(full, 1), (json!({"grants": {"analyst": ["*"]}}), 7), (json!({}), 31)] {
            let data = visible(Some(value(&tenant).unwrap()), &shared);
            for input in inputs().iter().step_by(every) {
                let document = value(input).unwrap();
                let machine = on_machine(program, data.clone(), document.clone(), &limits).unwrap();
                let interpreter = on_interpreter(engine.clone(), data.clone(), document, &limits).unwrap();
                assert_eq!(machine, interpreter, "{tenant} {input}");
                *verdicts.entry(format!("{:?}", Answer::read(&machine).unwrap().verdict)).or_insert(0) += 1;
            }
        }
        assert_eq!(verdicts.len(), 3, "the inputs reach every verdict: {verdicts:?}");
    }
}
