# Who may call what: tools, models, tasks, approvals. Denied unless a grant says yes.
#
# All that differs between tenants is data (`data.tenant`), read by key:
#
#   grants       {role: ["tool.call:drive_fetch", "model.complete:local/*", ...]}   `*` at the end stands for any rest
#   employees    {employee_id: {"role": role}}      where an employee is listed, the presented role must be this one
#   send_allow   {tool: [channel, ...]}             where a message may go without a person's yes
#   always_approve [tool, ...]                      tools that always need it
#   approvers    [role, ...]                        the roles that may give it; without one a held call is a denial
#   doc_access   {tag: [role, ...]}                 who may read documents with a tag; a tag that is not listed is open to the call that leads to it
#   redact_outgoing [kind, ...]                     masked in what leaves; all kinds where it is not said
#
# Written so that the bytecode machine and the interpreter agree: an assignment from a path that is not there does not end
# a body in the machine when only a negation follows, hence `object.get`.
#
# `data.shared.compliance` {flag: {"redact_input", "redact_output", "max_rows", "model_allow", "approver_roles"}} says what
# a compliance flag of the context obliges to; a flag that is not listed is a denial.
package forge.tool_access

default decision := {"verdict": "deny", "reasons": ["role_not_granted"], "obligations": {}}

decision := {"verdict": "deny", "reasons": sort(denials), "obligations": {}} if count(denials) > 0

decision := {"verdict": "needs_approval", "reasons": sort(holds), "obligations": object.union(obligations, approval)} if {
	admitted
	count(holds) > 0
}

decision := {"verdict": "allow", "reasons": [], "obligations": obligations} if {
	admitted
	count(holds) == 0
}

# both are asked: that a rule says yes, and that none says no
admitted if {
	granted
	count(denials) == 0
}

role_grants := data.tenant.grants[input.role]

request := concat(":", [input.action, input.tool_name])

granted if {
	some pattern in role_grants
	covers(pattern, request)
}

# the call that leads to a document was granted; its tags decide about the content
granted if input.action == "document.read"

denials contains "document_not_granted" if {
	input.action == "document.read"
	some tag in input.doc_tags
	roles := object.get(object.get(data.tenant, "doc_access", {}), tag, null)
	roles != null
	not input.role in roles
}

# which of several models: those whose own call would be granted. The one that is called is decided about again
granted if input.action == "model.route"

usable contains model if {
	input.action == "model.route"
	some model in input.candidates
	call := concat(":", ["model.complete", model])
	some pattern in role_grants
	covers(pattern, call)
	not model in forbidden
}

covers(pattern, call) if pattern == call

covers(pattern, call) if {
	endswith(pattern, "*")
	startswith(call, trim_suffix(pattern, "*"))
}

forbidden contains model if {
	input.action == "model.route"
	some flag in input.compliance_flags
	models := object.get(data.shared.compliance[flag], "model_allow", null)
	models != null
	some model in input.candidates
	not model in models
}

denials contains "no_model_allowed" if {
	input.action == "model.route"
	count(usable) == 0
}

denials contains "no_tenant_data" if not data.tenant.grants

denials contains "unknown_role" if {
	data.tenant.grants
	not role_grants
}

denials contains "role_not_granted" if {
	role_grants
	not granted
}

denials contains "role_mismatch" if {
	entry := object.get(data.tenant.employees, input.employee_id, null)
	entry != null
	not entry.role == input.role
}

denials contains "secret_in_outgoing_message" if {
	message
	"SECRET" in input.pii_flags
}

denials contains "unknown_compliance_flag" if {
	some flag in input.compliance_flags
	not data.shared.compliance[flag]
}

denials contains "model_not_allowed" if {
	input.action == "model.complete"
	some flag in input.compliance_flags
	models := object.get(data.shared.compliance[flag], "model_allow", null)
	models != null
	not input.tool_name in models
}

# a question that nobody may answer would wait for ever
denials contains "no_approvers" if {
	count(holds) > 0
	count(approver_roles) == 0
}

# an effect that is neither a read nor a write is taken for the worst
outgoing if not input.effect in {"read", "write"}

# what a remote model is asked leaves too, but nobody outside reads it: it is masked, not held
message if {
	outgoing
	not input.action == "model.complete"
}

inside if input.resource.channel in data.tenant.send_allow[input.tool_name]

holds contains "outside_message_needs_approval" if {
	message
	not inside
}

# the answer to a question is not held by the question
holds contains "tool_needs_approval" if {
	not input.action == "approval.decide"
	input.tool_name in data.tenant.always_approve
}

obligations := object.union(masks, limits)

masks := {"redact_input": redact_input, "redact_output": redact_output, "model_allow": model_allow}

redact_input contains kind if {
	outgoing
	some kind in redact_outgoing
}

# a message with a secret is denied; a remote model never sees one, whatever the tenant chose to mask
redact_input contains "SECRET" if outgoing

redact_input contains kind if {
	some flag in input.compliance_flags
	some kind in data.shared.compliance[flag].redact_input
}

redact_output contains kind if {
	some flag in input.compliance_flags
	some kind in data.shared.compliance[flag].redact_output
}

redact_outgoing := data.tenant.redact_outgoing

redact_outgoing := {"CREDIT_CARD", "EMAIL", "IBAN", "PHONE", "SECRET", "US_SSN"} if not data.tenant.redact_outgoing

# a model that any flag forbids is denied above, so of an allowed call's models this one is left
model_allow contains input.tool_name if {
	input.action == "model.complete"
	some flag in input.compliance_flags
	data.shared.compliance[flag].model_allow
}

model_allow contains model if some model in usable

max_rows contains n if {
	some flag in input.compliance_flags
	n := data.shared.compliance[flag].max_rows
}

limits := {"max_rows": min(max_rows)} if count(max_rows) > 0

limits := {} if count(max_rows) == 0

approval := {"approver_roles": approver_roles}

approver_roles contains role if some role in data.tenant.approvers

approver_roles contains role if {
	some flag in input.compliance_flags
	some role in data.shared.compliance[flag].approver_roles
}
