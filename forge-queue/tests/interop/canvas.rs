//! Chains, groups, chords and links whose tasks are in both languages.

use serde_json::json;

use crate::world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn canvas_crosses_both_ways() {
    let world = World::new();
    let _python = world.celery("pyq");
    let _rust = world.serve();
    let seen = world
        .python(
            r#"
from celery import chain, chord, group
from celery.result import AsyncResult
seen = {}
def ask(name, canvas):
    result = canvas.delay()
    value = result.get(timeout=20, propagate=False)
    seen[name] = f"{type(value).__name__}: {value}" if isinstance(value, Exception) else value
    return result
last = ask("rs-py-rs", chain(sig("rs.add", 1, 2), sig("py.add", 3), sig("rs.add", 4)))
seen["parents"] = [last.parent.get(timeout=20), last.parent.parent.get(timeout=20)]
first = last.parent.parent
seen["children"] = [[c.id for c in first.children] == [last.parent.id], [c.id for c in last.parent.children] == [last.id]]
ask("py-rs-py", chain(sig("py.add", 1, 2), sig("rs.add", 3), sig("py.add", 4)))
header = [sig("rs.add", 1, 1), sig("py.add", 2, 2), sig("rs.add", 3, 3), sig("py.add", 4, 4)]
ask("body-rs", chord(header, sig("rs.tsum")))
ask("body-py", chord(header, sig("py.tsum")))
ask("order", chord(header, sig("rs.echo")))
ask("chord-inside", chain(sig("rs.add", 1, 1), group(sig("rs.add", 1), sig("py.add", 2)), sig("rs.tsum"), sig("py.add", 5)))
ask("chord-after-py", chain(sig("py.add", 1, 1), group(sig("rs.add", 1), sig("py.add", 2)), sig("py.tsum"), sig("rs.add", 5)))
ask("two-chords", chain(sig("rs.add", 1, 1), group(sig("rs.add", 1), sig("py.add", 2)), sig("rs.tsum"), group(sig("rs.add", 1), sig("py.add", 2)), sig("py.tsum")))
ask("group-last", chain(sig("rs.add", 1, 1), group(sig("rs.add", 1), sig("py.add", 2))))
ask("group-body", chord(header, group(sig("rs.tsum"), sig("py.tsum"))))
seen["group"] = group(sig("rs.add", 1, 1), sig("py.add", 2, 2)).delay().join(timeout=20)
ask("nested", chord([chain(sig("rs.add", 1, 1), group(sig("rs.add", 1), sig("py.add", 2))), sig("rs.add", 5, 5)], sig("rs.echo")))
ask("nested-inside", chain(sig("rs.add", 1, 1), group(chain(sig("rs.add", 1), group(sig("rs.add", 1), sig("py.add", 2))), sig("rs.add", 5)), sig("rs.echo")))
ask("chunks", chain(sig("rs.echo"), add.chunks([(1, 2), (3, 4)], 1).group()))
broken = chain(sig("rs.fail"), sig("py.add", 1), sig("rs.add", 2)).delay()
try:
    broken.get(timeout=20)
except RuntimeError as e:
    seen["chain-fails"] = [str(e), broken.state, broken.parent.state]
for name, body in (("chord-fails-rs", "rs.tsum"), ("chord-fails-py", "py.tsum")):
    parts = [sig("rs.add", 1, 1), sig("rs.fail")]
    ids = [p.freeze().id for p in parts]
    ask(name, chord(parts, sig(body)))
    seen[name] = seen[name].replace(ids[1], "ID")
failed = sig("py.fail")
failed.freeze()
ask("chord-fails-in-py", chord([failed, sig("rs.add", 1, 1)], sig("rs.tsum")))
seen["chord-fails-in-py"] = seen["chord-fails-in-py"].replace(failed.id, "ID")
ask("chain-in-chord-fails", chord([chain(sig("rs.fail"), sig("py.add", 1)), sig("rs.add", 1, 1)], sig("py.tsum")))
seen["chain-in-chord-fails"] = seen["chain-in-chord-fails"].split(" raised ")[-1]
ask("group-in-chord-fails", chord([chain(sig("rs.fail"), group(sig("py.add", 1), sig("rs.add", 1))), sig("rs.add", 1, 1)], sig("py.tsum")))
ask("group-in-later-chord-fails", chain(sig("rs.add", 1, 1), chord([chain(sig("rs.fail"), group(sig("py.add", 1), sig("rs.add", 1))), sig("rs.add", 1)], sig("py.tsum"))))
for name in ("group-in-chord-fails", "group-in-later-chord-fails"):
    seen[name] = seen[name].split(" raised ")[-1]
linked = sig("rs.add", 1, 1).apply_async(link=[sig("py.add", 10), sig("rs.add", 20)])
linked.get(timeout=20)
seen["links"] = sorted(linked.children[0].join(timeout=20))
errback = sig("py.errback")
errback.freeze()
failed = sig("rs.fail").apply_async(link_error=errback)
seen["errback"] = AsyncResult(errback.id).get(timeout=20) == failed.id
body_errback = sig("py.errback")
body_errback.freeze()
failed = chord([sig("rs.fail"), sig("rs.add", 1, 1)], sig("py.tsum").on_error(body_errback)).delay()
seen["body-errback"] = AsyncResult(body_errback.id).get(timeout=20) == failed.id
print(json.dumps(seen))
"#,
        )
        .await;
    let dependency = "ChordError: Dependency ID raised";
    let expected = json!({
        "rs-py-rs": 10, "parents": [6, 3], "children": [true, true], "py-rs-py": 10,
        "body-rs": 20, "body-py": 20, "order": [[2, 4, 6, 8]],
        "chord-inside": 12, "chord-after-py": 12, "two-chords": 17,
        "group-last": [3, 4], "group-body": [20, 20], "group": [2, 4],
        "nested": [[[3, 4], 10]], "nested-inside": [[[4, 5], 7]],
        "chunks": [[3], [7]],
        "chain-fails": ["invalid_input: no luck", "FAILURE", "FAILURE"],
        "chord-fails-rs": format!("{dependency} RuntimeError('invalid_input: no luck')"),
        "chord-fails-py": format!("{dependency} RuntimeError('invalid_input: no luck')"),
        "chord-fails-in-py": format!("{dependency} ValueError('bad thing')"),
        "chain-in-chord-fails": "RuntimeError('invalid_input: no luck')",
        "group-in-chord-fails": "RuntimeError('invalid_input: no luck')",
        "group-in-later-chord-fails": "RuntimeError('invalid_input: no luck')",
        "links": [12, 22], "errback": true, "body-errback": true,
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(seen.get(name), Some(value), "{name}: {seen:#}");
    }
}
