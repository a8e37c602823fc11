//! Going through every expression of a rule.

use forge_core::Result;
use regorus::unstable::{Expr, Literal, Query, Rule, RuleAssign, RuleHead};

type Visit<'a> = &'a mut dyn FnMut(&Expr) -> Result<()>;

/// Shows every expression of the rule; a reference is shown whole, then what stands in its brackets.
pub(super) fn rule(rule: &Rule, visit: Visit<'_>) -> Result<()> {
    match rule {
        Rule::Default { args, value, .. } => {
            args.iter().try_for_each(|a| expr(a, visit))?;
            expr(value, visit)
        }
        Rule::Spec { head, bodies, .. } => {
            match head {
                RuleHead::Compr { refr, assign: value, .. } => {
                    expr(refr, visit)?;
                    assign(value.as_ref(), visit)?;
                }
                RuleHead::Set { refr, key, .. } => {
                    expr(refr, visit)?;
                    key.iter().try_for_each(|k| expr(k, visit))?;
                }
                RuleHead::Func { refr, args, assign: value, .. } => {
                    expr(refr, visit)?;
                    args.iter().try_for_each(|a| expr(a, visit))?;
                    assign(value.as_ref(), visit)?;
                }
            }
            for body in bodies {
                assign(body.assign.as_ref(), visit)?;
                query(&body.query, visit)?;
            }
            Ok(())
        }
    }
}

/// The variable at the bottom of a reference, and the first field taken from it, where that is a constant.
pub(super) fn root(mut e: &Expr) -> (&Expr, Option<String>) {
    let mut first = None;
    loop {
        match e {
            Expr::RefDot { refr, field, .. } => {
                first = Some(field.0.text().to_owned());
                e = refr;
            }
            Expr::RefBrack { refr, index, .. } => {
                first = match index.as_ref() {
                    Expr::String { value, .. } => value.as_string().ok().map(|s| s.to_string()),
                    _ => None,
                };
                e = refr;
            }
            _ => return (e, first),
        }
    }
}

fn assign(value: Option<&RuleAssign>, visit: Visit<'_>) -> Result<()> {
    value.map_or(Ok(()), |a| expr(&a.value, visit))
}

fn query(q: &Query, visit: Visit<'_>) -> Result<()> {
    for statement in &q.stmts {
        match &statement.literal {
            Literal::SomeVars { .. } => {}
            Literal::SomeIn { key, value, collection, .. } => {
                key.iter().try_for_each(|k| expr(k, visit))?;
                expr(value, visit)?;
                expr(collection, visit)?;
            }
            Literal::Expr { expr: e, .. } | Literal::NotExpr { expr: e, .. } => expr(e, visit)?,
            Literal::Every { domain, query: inner, .. } => {
                expr(domain, visit)?;
                query(inner, visit)?;
            }
        }
        for with in &statement.with_mods {
            expr(&with.refr, visit)?;
            expr(&with.r#as, visit)?;
        }
    }
    Ok(())
}

fn expr(e: &Expr, visit: Visit<'_>) -> Result<()> {
    visit(e)?;
    match e {
        Expr::Array { items, .. } | Expr::Set { items, .. } => items.iter().try_for_each(|i| expr(i, visit)),
        Expr::Object { fields, .. } => fields.iter().try_for_each(|(_, k, v)| {
            expr(k, visit)?;
            expr(v, visit)
        }),
        Expr::ArrayCompr { term, query: q, .. } | Expr::SetCompr { term, query: q, .. } => {
            expr(term, visit)?;
            query(q, visit)
        }
        Expr::ObjectCompr { key, value, query: q, .. } => {
            expr(key, visit)?;
            expr(value, visit)?;
            query(q, visit)
        }
        // the name was shown with the call
        Expr::Call { params, .. } => params.iter().try_for_each(|p| expr(p, visit)),
        Expr::UnaryExpr { expr: inner, .. } => expr(inner, visit),
        Expr::RefDot { .. } | Expr::RefBrack { .. } => brackets(e, visit),
        Expr::BinExpr { lhs, rhs, .. }
        | Expr::BoolExpr { lhs, rhs, .. }
        | Expr::ArithExpr { lhs, rhs, .. }
        | Expr::AssignExpr { lhs, rhs, .. } => {
            expr(lhs, visit)?;
            expr(rhs, visit)
        }
        Expr::Membership { key, value, collection, .. } => {
            key.iter().try_for_each(|k| expr(k, visit))?;
            expr(value, visit)?;
            expr(collection, visit)
        }
        _ => Ok(()),
    }
}

fn brackets(mut e: &Expr, visit: Visit<'_>) -> Result<()> {
    loop {
        match e {
            Expr::RefDot { refr, .. } => e = refr,
            Expr::RefBrack { refr, index, .. } => {
                expr(index, visit)?;
                e = refr;
            }
            Expr::Var { .. } => return Ok(()),
            _ => return expr(e, visit),
        }
    }
}
