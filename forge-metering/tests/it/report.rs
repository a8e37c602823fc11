//! What the reports promise.

use crate::common::{ctx, event, usd};
use forge_core::usage::{Resource, UsageEvent};
use forge_core::{Currency, ErrorKind, Money};
use forge_metering::report::{events_jsonl, reconcile, usage_csv};
use proptest::prelude::*;
use rust_decimal::Decimal;

fn model(name: &str) -> UsageEvent {
    UsageEvent { resource: Resource::Model(name.into()), ..event(&ctx("acme", "ana"), 1, Some(usd("0.10"))) }
}

#[test]
fn the_columns_are_fixed_and_the_numbers_exact() {
    let (ana, bo) = (ctx("acme", "ana"), ctx("acme", "bo.b"));
    let events = [event(&ana, 1, Some(usd("0.0000000000000001"))), event(&bo, 2, None)];
    let csv = usage_csv(&events).unwrap();
    let golden = "timestamp,tenant_id,employee_id,model,tokens_in,tokens_out,latency_ms,cost_estimate,tool_calls\r\n\
        1970-01-01T00:00:01.000000007Z,acme,ana,gpt-x,1,2,6,0.0000000000000001,1\r\n\
        1970-01-01T00:00:02.000000007Z,acme,bo.b,tool:weather,2,4,7,,1\r\n";
    assert_eq!(csv, golden);
    let proof = reconcile(&csv, &events_jsonl(&events).unwrap()).unwrap();
    assert_eq!((proof.rows, proof.tokens_in, proof.tokens_out, proof.tool_calls, proof.unpriced), (2, 3, 6, 2, 1));
    assert_eq!(proof.cost, Some(usd("0.0000000000000001")));
}

#[test]
fn hostile_model_names_stay_in_their_cell() {
    for (name, cell) in [
        ("a,b", "\"a,b\""),
        ("say \"hi\"", "\"say \"\"hi\"\"\""),
        ("two\r\nlines", "\"two\r\nlines\""),
        ("=HYPERLINK(\"http://x\",1)", "\"'=HYPERLINK(\"\"http://x\"\",1)\""),
        ("-1+1", "'-1+1"),
        ("@sum", "'@sum"),
    ] {
        let events = [model(name), model("plain")];
        let csv = usage_csv(&events).unwrap();
        assert!(csv.contains(&format!(",acme,ana,{cell},").replacen(",acme", "acme", 1)), "{csv}");
        let proof = reconcile(&csv, &events_jsonl(&events).unwrap()).unwrap();
        assert_eq!((proof.rows, proof.cost), (2, Some(usd("0.2"))), "{name:?}");
    }
}

#[test]
fn one_file_has_one_currency() {
    let euro = Money::new(Decimal::ONE, Currency::EUR);
    let acme = ctx("acme", "ana");
    let events = [event(&acme, 1, Some(usd("1"))), event(&acme, 2, Some(euro))];
    assert_eq!(usage_csv(&events).unwrap_err().kind(), ErrorKind::InvalidInput);
    let jsonl = events_jsonl(&events).unwrap();
    assert_eq!(reconcile(&usage_csv(&[]).unwrap(), &jsonl).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn any_difference_is_found() {
    let (ana, bo) = (ctx("acme", "ana"), ctx("acme", "bo"));
    let events = [event(&ana, 1, Some(usd("0.10"))), event(&bo, 2, Some(usd("0.20"))), event(&bo, 4, None)];
    let (csv, jsonl) = (usage_csv(&events).unwrap(), events_jsonl(&events).unwrap());
    reconcile(&csv, &jsonl).unwrap();
    for (from, to, figure) in [
        (",0.10,", ",0.10000000000000000001,", "cost"),
        (",0.10,", ",,", "cost"),
        (",,1\r\n", ",0,1\r\n", "unpriced"),
        (",1,2,6,", ",2,2,6,", "tokens_in"),
        (",1,2,6,", ",1,3,6,", "tokens_out"),
        (",1,2,6,", ",1,2,9,", "latency_ms"),
        ("0.10,1\r\n", "0.10,2\r\n", "tool_calls"),
        // the sums agree, the employees do not
        (",ana,", ",bo,", "rows"),
    ] {
        let changed = csv.replacen(from, to, 1);
        assert_ne!(changed, csv, "{from}");
        let e = reconcile(&changed, &jsonl).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Conflict);
        assert!(e.context().any(|(k, v)| k == "figure" && v == figure), "{from} {to}: {e}");
    }
    let short = jsonl.lines().next().unwrap();
    assert_eq!(reconcile(&csv, short).unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(
        reconcile(&csv, &jsonl.replace(r#""ok""#, r#""fine""#)).map(|p| p.rows).unwrap_or(0),
        3,
        "no event is ok here"
    );
}

#[test]
fn what_does_not_parse_is_invalid_input() {
    let events = [event(&ctx("acme", "ana"), 1, Some(usd("0.10")))];
    let (csv, jsonl) = (usage_csv(&events).unwrap(), events_jsonl(&events).unwrap());
    for (csv, jsonl) in [
        (csv.replace("cost_estimate", "cost"), jsonl.clone()),
        (csv.replace("0.10", "1e-1"), jsonl.clone()),
        (csv.replace(",ana,", ",,"), jsonl.clone()),
        (csv.clone(), jsonl.replace("tenant", "customer")),
        (String::new(), jsonl),
    ] {
        assert_eq!(reconcile(&csv, &jsonl).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_files_say_what_the_events_say(
        cases in prop::collection::vec((prop::option::of((0..1_000_000_i64, 0_u32..=16)), "[ -~\r\n\t]{0,12}", 0_u64..3), 0..30),
    ) {
        let events: Vec<_> = cases.iter().zip(0..).map(|((cost, name, who), n)| {
            let cost = cost.map(|(m, scale)| Money::new(Decimal::new(m, scale), Currency::USD));
            UsageEvent { resource: Resource::Model(name.clone()), ..event(&ctx("acme", &format!("e{who}")), n, cost) }
        }).collect();
        let proof = reconcile(&usage_csv(&events).unwrap(), &events_jsonl(&events).unwrap()).unwrap();
        let units: i128 = cases.iter().filter_map(|c| c.0).map(|(m, scale)| i128::from(m) * 10_i128.pow(16 - scale)).sum();
        prop_assert_eq!(proof.rows, u64::try_from(events.len()).unwrap());
        prop_assert_eq!(proof.cost.map_or(Decimal::ZERO, |c| c.amount), Decimal::from_i128_with_scale(units, 16));
    }
}
