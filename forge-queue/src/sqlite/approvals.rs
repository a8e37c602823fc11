//! Questions to a person: asked once, answered once by somebody else, used by one call.

use async_trait::async_trait;
use forge_core::approvals::{Answer, Approval, ApprovalState, Approvals, ApprovalsCapability};
use forge_core::policy::Denial;
use forge_core::{
    ApprovalId, DecisionId, Digest, EmployeeId, Error, ErrorKind, ExecutionContext, OperationKey, Result,
};
use forge_sqlite::rusqlite::{Connection, Row, Transaction, params};
use forge_sqlite::{corrupt, error};

use super::SqliteStore;
use super::row::{at, from_json, from_word, parsed, signed, to_json, word};

const COLUMNS: &str =
    "id, operation, resource, digest, asker, approver_roles, asked, state, decider, decided FROM approvals";

#[async_trait]
impl Approvals for SqliteStore {
    async fn ask(&self, ctx: &ExecutionContext, approval: Approval) -> Result<Approval> {
        const OP: &str = "approvals.ask";
        let tenant = ctx.tenant().to_string();
        let ask = move |tx: &Transaction<'_>| {
            let sql =
                "INSERT INTO approvals (tenant, id, operation, resource, digest, asker, approver_roles, asked, state)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'pending') ON CONFLICT (tenant, id) DO NOTHING";
            let values = params![
                tenant,
                approval.id.to_string(),
                approval.operation.as_str(),
                approval.resource,
                approval.digest.to_string(),
                approval.asker.as_str(),
                to_json(OP, &approval.approver_roles)?,
                approval.asked.as_nanos()
            ];
            tx.execute(sql, values).map_err(error(OP))?;
            find(tx, OP, &tenant, approval.id)
        };
        self.db.write(OP, ask).await
    }

    async fn find(&self, ctx: &ExecutionContext, id: ApprovalId) -> Result<Approval> {
        let tenant = ctx.tenant().to_string();
        self.db.read("approvals.find", move |c| find(c, "approvals.find", &tenant, id)).await
    }

    async fn pending(&self, ctx: &ExecutionContext, limit: usize) -> Result<Vec<Approval>> {
        const OP: &str = "approvals.pending";
        let (tenant, limit) = (ctx.tenant().to_string(), signed(limit));
        let sql = format!("SELECT {COLUMNS} WHERE tenant = ?1 AND state = 'pending' ORDER BY asked, id LIMIT ?2");
        let read = move |c: &Connection| {
            let mut statement = c.prepare_cached(&sql).map_err(error(OP))?;
            let mut rows = statement.query(params![tenant, limit]).map_err(error(OP))?;
            let mut open = Vec::new();
            while let Some(row) = rows.next().map_err(error(OP))? {
                open.push(Stored::read(row).map_err(error(OP))?.parse(OP)?);
            }
            Ok(open)
        };
        self.db.read(OP, read).await
    }

    async fn answer(&self, ctx: &ExecutionContext, id: ApprovalId, digest: Digest, answer: Answer) -> Result<Approval> {
        const OP: &str = "approvals.answer";
        let (ctx, now) = (ctx.clone(), self.clock.now());
        let decide = move |tx: &Transaction<'_>| {
            let tenant = ctx.tenant().as_str();
            let mut approval = find(tx, OP, tenant, id)?;
            may_answer(&ctx, &approval)?;
            if approval.digest != digest {
                return Err(Error::new(ErrorKind::Conflict, OP, "the answer is about other arguments"));
            }
            if approval.state != ApprovalState::Pending {
                return Err(Error::new(ErrorKind::Conflict, OP, "the question was answered already"));
            }
            approval.state = match answer {
                Answer::Approve => ApprovalState::Approved,
                Answer::Deny => ApprovalState::Denied,
            };
            approval.decided = Some((ctx.employee().clone(), now));
            let sql = "UPDATE approvals SET state = ?3, decider = ?4, decided = ?5 WHERE tenant = ?1 AND id = ?2";
            let state = word(OP, &approval.state)?;
            tx.execute(sql, params![tenant, id.to_string(), state, ctx.employee().as_str(), now.as_nanos()])
                .map_err(error(OP))?;
            Ok(approval)
        };
        self.db.write(OP, decide).await
    }

    async fn consume(&self, ctx: &ExecutionContext, id: ApprovalId, operation: &OperationKey) -> Result<()> {
        const OP: &str = "approvals.consume";
        let (tenant, operation) = (ctx.tenant().to_string(), operation.clone());
        let consume = move |tx: &Transaction<'_>| {
            let approval = find(tx, OP, &tenant, id)?;
            let granted = matches!(approval.state, ApprovalState::Approved | ApprovalState::Used);
            if !granted || approval.operation != operation {
                return Err(Error::new(ErrorKind::Conflict, OP, "not approved for this operation"));
            }
            let sql = "UPDATE approvals SET state = 'used' WHERE tenant = ?1 AND id = ?2";
            tx.execute(sql, params![tenant, id.to_string()]).map(|_| ()).map_err(error(OP))
        };
        self.db.write(OP, consume).await
    }

    fn capability(&self) -> ApprovalsCapability {
        ApprovalsCapability::new(true)
    }
}

/// The asker may not answer, nor may a colleague's hand that the asker moves; the role must be named.
fn may_answer(ctx: &ExecutionContext, approval: &Approval) -> Result<()> {
    let own = approval.asker == *ctx.employee() || ctx.on_behalf_of() == Some(&approval.asker);
    let reason = match () {
        () if own => "own_request",
        () if !approval.approver_roles.contains(ctx.role()) => "not_an_approver",
        () => return Ok(()),
    };
    let decision = DecisionId::derived(&[
        b"approval",
        ctx.tenant().as_str().as_bytes(),
        approval.id.as_bytes(),
        reason.as_bytes(),
    ]);
    Err(Error::denied(
        "approvals.answer",
        Denial { decision, reasons: vec![reason.to_owned()], policy: "approvals".to_owned(), revision: "1".to_owned() },
    ))
}

fn find(c: &Connection, operation: &'static str, tenant: &str, id: ApprovalId) -> Result<Approval> {
    let sql = format!("SELECT {COLUMNS} WHERE tenant = ?1 AND id = ?2");
    let mut statement = c.prepare_cached(&sql).map_err(error(operation))?;
    let mut rows = statement.query(params![tenant, id.to_string()]).map_err(error(operation))?;
    match rows.next().map_err(error(operation))? {
        Some(row) => Stored::read(row).map_err(error(operation))?.parse(operation),
        None => Err(Error::not_found(operation, "no such question")),
    }
}

/// A row, as SQLite has it.
struct Stored {
    id: String,
    operation: String,
    resource: String,
    digest: String,
    asker: String,
    approver_roles: String,
    asked: i64,
    state: String,
    decider: Option<String>,
    decided: Option<i64>,
}

impl Stored {
    fn read(r: &Row<'_>) -> forge_sqlite::rusqlite::Result<Self> {
        Ok(Self {
            id: r.get(0)?,
            operation: r.get(1)?,
            resource: r.get(2)?,
            digest: r.get(3)?,
            asker: r.get(4)?,
            approver_roles: r.get(5)?,
            asked: r.get(6)?,
            state: r.get(7)?,
            decider: r.get(8)?,
            decided: r.get(9)?,
        })
    }

    fn parse(self, op: &'static str) -> Result<Approval> {
        let decided = match (self.decider, self.decided) {
            (Some(who), Some(when)) => Some((parsed(op, "decider", EmployeeId::parse(who))?, at(when))),
            (None, None) => None,
            _ => return Err(corrupt(op, "decider")),
        };
        Ok(Approval {
            id: parsed(op, "id", ApprovalId::parse(&self.id))?,
            operation: from_word(op, "operation", &self.operation)?,
            resource: self.resource,
            digest: parsed(op, "digest", Digest::try_from(self.digest))?,
            asker: parsed(op, "asker", EmployeeId::parse(self.asker))?,
            approver_roles: from_json(op, "approver_roles", &self.approver_roles)?,
            asked: at(self.asked),
            state: from_word(op, "state", &self.state)?,
            decided,
        })
    }
}
