use super::*;

fn book(rows: &[(&str, &str, &str)]) -> Result<PriceBook> {
    let text: String = rows
        .iter()
        .map(|(resource, from, prices)| {
            format!("[[price]]\nresource = {resource:?}\neffective_from = {from:?}\ncurrency = \"USD\"\n{prices}\n")
        })
        .collect();
    PriceBook::parse(&text)
}

const DAY_1: &str = "2026-01-01T00:00:00Z";
const DAY_2: &str = "2026-01-02T00:00:00Z";

fn tool_price(book: &PriceBook, tool: &str, at: &str) -> Option<String> {
    let quote = book.quote(&Resource::Tool(tool.into()), &Quantity::TOOL_CALL, at.parse().unwrap()).unwrap();
    quote.map(|m| m.amount.to_string())
}

#[test]
fn the_longest_name_and_the_latest_date_hold() {
    let book = book(&[
        ("tool:*", DAY_1, "per_call = \"1\""),
        ("tool:slack*", DAY_1, "per_call = \"2\""),
        ("tool:slack_post", DAY_2, "per_call = \"4\""),
        ("tool:slack_post", DAY_1, "per_call = \"3\""),
        ("tool:slack_post*", DAY_1, "per_call = \"9\""),
    ])
    .unwrap();
    for (tool, at, price) in [
        ("weather", DAY_1, Some("1")),
        ("slack_read", DAY_1, Some("2")),
        ("slack_post", DAY_1, Some("3")),
        ("slack_post", "2026-01-01T23:59:59.999999999Z", Some("3")),
        ("slack_post", DAY_2, Some("4")),
        ("slack_post_all", DAY_2, Some("9")),
        ("slack_post", "2025-12-31T23:59:59Z", None),
    ] {
        assert_eq!(tool_price(&book, tool, at).as_deref(), price, "{tool} at {at}");
    }
}

#[test]
fn a_later_row_of_a_longer_name_does_not_hold_before_its_date() {
    let book = book(&[("tool:*", DAY_1, "per_call = \"1\""), ("tool:a", DAY_2, "per_call = \"2\"")]).unwrap();
    assert_eq!(tool_price(&book, "a", DAY_1).as_deref(), Some("1"));
}

#[test]
fn what_has_no_price_is_none_and_never_zero() {
    let book = book(&[("model:m", DAY_1, "per_1k_tokens_in = \"1\"")]).unwrap();
    let at = DAY_1.parse().unwrap();
    let quote = |q| book.quote(&Resource::Model("m".into()), &q, at).unwrap();
    assert_eq!(quote(Quantity { tokens_in: 1, ..Quantity::default() }).unwrap().to_string(), "0.001 USD");
    assert_eq!(quote(Quantity { tokens_in: 1, tokens_out: 1, ..Quantity::default() }), None);
    assert_eq!(quote(Quantity::default()).unwrap().to_string(), "0 USD");
    assert_eq!(book.quote(&Resource::Tool("m".into()), &Quantity::TOOL_CALL, at).unwrap(), None);
}

#[test]
fn a_cost_that_does_not_fit_is_an_error() {
    let book = book(&[("tool:a", DAY_1, "per_call = \"0.1234567890123456\"")]).unwrap();
    let many = Quantity { tool_calls: u64::MAX, ..Quantity::default() };
    let e = book.quote(&Resource::Tool("a".into()), &many, DAY_1.parse().unwrap()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_wrong_book_is_refused() {
    for (resource, prices) in [
        ("slack", "per_call = \"1\""),
        ("tool:", "per_call = \"1\""),
        ("tool:*a", "per_call = \"1\""),
        ("tool:a", ""),
        ("tool:a", "per_call = 0.1"),
        ("tool:a", "per_call = \"-1\""),
        ("tool:a", "per_call = \"1e3\""),
        ("tool:a", "per_call = \"0.12345678901234567\""),
        ("tool:a", "per_cal = \"1\""),
        ("model:a", "per_call = \"1\""),
    ] {
        let e = book(&[(resource, DAY_1, prices)]).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Config, "{resource} {prices}");
    }
    let twice = ("tool:a", DAY_1, "per_call = \"1\"");
    assert!(book(&[twice, twice]).is_err());
    let e = book(&[("tool:a", DAY_1, "per_cal = \"1\"")]).unwrap_err();
    assert!(e.to_string().contains("per_cal") && e.to_string().contains("line=5"), "{e}");
}

#[test]
fn json_says_the_same_as_toml() {
    let row = |price: &str| {
        format!(
            r#"{{"price":[{{"resource":"tool:a","effective_from":"{DAY_1}","currency":"USD","per_call":{price}}}]}}"#
        )
    };
    assert_eq!(tool_price(&PriceBook::from_json(&row("\"0.5\"")).unwrap(), "a", DAY_1).as_deref(), Some("0.5"));
    assert!(PriceBook::from_json(&row("0.5")).is_err());
}

#[test]
fn the_example_prices_tools_and_local_models_only() {
    let book = PriceBook::example().unwrap();
    let at = DAY_1.parse().unwrap();
    let tokens = Quantity { tokens_in: 5, tokens_out: 5, ..Quantity::default() };
    assert_eq!(tool_price(&book, "anything", DAY_1).as_deref(), Some("0.0001"));
    assert_eq!(book.quote(&Resource::Model("local/x".into()), &tokens, at).unwrap().unwrap().to_string(), "0 USD");
    assert_eq!(book.quote(&Resource::Model("gpt-x".into()), &tokens, at).unwrap(), None);
}
