-- A database of revision 0003, with something in every table. It is what that revision left behind: it stays as it is.
PRAGMA application_id=1734440037;
BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0003');
CREATE TABLE device_tokens (
	digest TEXT NOT NULL, 
	device_id TEXT NOT NULL, 
	role TEXT NOT NULL, 
	scopes TEXT NOT NULL, 
	issued_at_ms BIGINT NOT NULL, 
	last_used_at_ms BIGINT, 
	CONSTRAINT pk_device_tokens PRIMARY KEY (digest), 
	CONSTRAINT fk_device_tokens_device_id FOREIGN KEY(device_id) REFERENCES devices (device_id) ON DELETE CASCADE
);
INSERT INTO "device_tokens" VALUES('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','device-1','operator','["operator.read"]',1700000000000,NULL);
CREATE TABLE devices (
	device_id TEXT NOT NULL, 
	public_key TEXT NOT NULL, 
	roles TEXT NOT NULL, 
	scopes TEXT NOT NULL, 
	created_at_ms BIGINT NOT NULL, 
	approved_at_ms BIGINT NOT NULL, 
	approved_via TEXT NOT NULL, 
	display_name TEXT, 
	platform TEXT, 
	device_family TEXT, 
	client_id TEXT, 
	client_mode TEXT, 
	last_seen_at_ms BIGINT, 
	version BIGINT NOT NULL, 
	CONSTRAINT pk_devices PRIMARY KEY (device_id)
);
INSERT INTO "devices" VALUES('device-1','cHVibGlj','["operator"]','["operator.read"]',1700000000000,1700000000000,'owner','Küche',NULL,NULL,NULL,NULL,NULL,1);
CREATE TABLE messages (
	session_id TEXT NOT NULL, 
	seq BIGINT NOT NULL, 
	message_id TEXT NOT NULL, 
	role TEXT NOT NULL, 
	content TEXT NOT NULL, 
	timestamp_ms BIGINT NOT NULL, 
	run_id TEXT, 
	stop_reason TEXT, 
	meta TEXT NOT NULL, 
	CONSTRAINT pk_messages PRIMARY KEY (session_id, seq)
);
INSERT INTO "messages" VALUES('id of agent:main:main',1,'m first question','user','[{"type":"text","text":"first question"}]',1700000000000,NULL,NULL,'{}');
INSERT INTO "messages" VALUES('id of agent:main:main',2,'m an answer','assistant','[{"type":"text","text":"an answer"}]',1700000000000,NULL,'stop','{"model":"demo"}');
INSERT INTO "messages" VALUES('id of agent:main:main',3,'m second','user','[{"type":"text","text":"second"}]',1700000000000,NULL,NULL,'{}');
INSERT INTO "messages" VALUES('id of agent:main:küche',1,'m what''s up?','user','[{"type":"text","text":"what''s up?"}]',1700000000000,NULL,NULL,'{}');
INSERT INTO "messages" VALUES('id of agent:main:küche',2,'m and this?','user','[{"type":"text","text":"and this?"}]',1700000000000,NULL,NULL,'{}');
CREATE TABLE run_events (
	run_id TEXT NOT NULL, 
	epoch TEXT NOT NULL, 
	seq BIGINT NOT NULL, 
	stream TEXT NOT NULL, 
	data BLOB NOT NULL, 
	ts_ms BIGINT NOT NULL, 
	CONSTRAINT pk_run_events PRIMARY KEY (run_id, epoch, seq)
);
INSERT INTO "run_events" VALUES('done','epoch-1',1,'lifecycle',X'7B227068617365223A227374617274227D',1700000000001);
INSERT INTO "run_events" VALUES('done','epoch-1',2,'assistant',X'7B2264656C7461223A226869227D',1700000000002);
INSERT INTO "run_events" VALUES('done','epoch-0',1,'assistant',X'7B2264656C7461223A226869227D',1700000000001);
INSERT INTO "run_events" VALUES('done','epoch-1',3,'lifecycle',X'7B227068617365223A22656E64227D',1700000000003);
INSERT INTO "run_events" VALUES('running','epoch-1',1,'lifecycle',X'7B227068617365223A227374617274227D',1700000000001);
INSERT INTO "run_events" VALUES('running','epoch-1',2,'assistant',X'00FF',1700000000002);
CREATE TABLE runs (
	position INTEGER NOT NULL, 
	run_id TEXT NOT NULL, 
	epoch TEXT NOT NULL, 
	session_key TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	origin TEXT NOT NULL, 
	actor TEXT NOT NULL, 
	fingerprint TEXT NOT NULL, 
	state TEXT NOT NULL, 
	accepted_at_ms BIGINT NOT NULL, 
	started_at_ms BIGINT, 
	ended_at_ms BIGINT, 
	stop_reason TEXT, 
	error TEXT, 
	last_seq BIGINT NOT NULL, 
	log_bytes BIGINT NOT NULL, 
	evicted_through BIGINT NOT NULL, 
	request BLOB, 
	CONSTRAINT pk_runs PRIMARY KEY (position), 
	CONSTRAINT uq_runs_run_id UNIQUE (run_id)
);
INSERT INTO "runs" VALUES(1,'done','epoch-1','agent:main:main','id of agent:main:main','main','chat','device-1','f00d','done',1700000000000,1700000000001,1700000000009,'stop',NULL,3,860,0,NULL);
INSERT INTO "runs" VALUES(2,'failed','epoch-1','agent:main:main','id of agent:main:main','main','chat','device-1','f00d','failed',1700000000010,NULL,1700000000020,NULL,'no model',0,0,1,NULL);
INSERT INTO "runs" VALUES(3,'running','epoch-1','agent:main:küche','id of agent:main:küche','main','chat','device-1','f00d','accepted',1700000000030,NULL,NULL,NULL,NULL,0,0,0,NULL);
INSERT INTO "runs" VALUES(4,'queued','epoch-2','agent:main:küche','id of agent:main:küche','main','chat','device-1','f00d','accepted',1700000000031,NULL,NULL,NULL,NULL,0,0,0,X'7B2272756E4964223A22717565756564222C2273657373696F6E4B6579223A226167656E743A6D61696E3A6D61696E222C2273657373696F6E4964223A226964206F66206167656E743A6D61696E3A6D61696E222C226167656E744964223A226D61696E222C2274657874223A2271227D');
CREATE TABLE sessions (
	"key" TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	created_at_ms BIGINT NOT NULL, 
	updated_at_ms BIGINT NOT NULL, 
	version BIGINT NOT NULL, 
	lifecycle_revision TEXT NOT NULL, 
	label TEXT, 
	settings TEXT NOT NULL, 
	system_sent BOOLEAN NOT NULL, 
	aborted_last_run BOOLEAN NOT NULL, 
	input_tokens BIGINT NOT NULL, 
	output_tokens BIGINT NOT NULL, 
	total_tokens BIGINT NOT NULL, 
	context_tokens BIGINT, 
	compactions BIGINT NOT NULL, 
	agent_session TEXT, 
	parent_key TEXT, 
	last_channel TEXT, 
	created_via TEXT NOT NULL, 
	last_message_preview TEXT, 
	first_message_preview TEXT, 
	search_text TEXT NOT NULL, 
	CONSTRAINT pk_sessions PRIMARY KEY ("key"), 
	CONSTRAINT uq_sessions_session_id UNIQUE (session_id)
);
INSERT INTO "sessions" VALUES('agent:main:main','id of agent:main:main','main',1700000000000,1700000000020,4,'','Straße','{"thinkingLevel":"high"}',1,0,3,4,7,150,1,'conversation 1',NULL,NULL,'operator','second','first question','agent:main:main
strasse
first question');
INSERT INTO "sessions" VALUES('agent:main:küche','id of agent:main:küche','main',1700000000000,1700000000000,2,'',NULL,'{}',0,0,0,0,0,NULL,0,NULL,'agent:main:main',NULL,'operator','and this?','what''s up?','agent:main:küche

what''s up?');
CREATE TABLE usage (
	position INTEGER NOT NULL, 
	run_id TEXT NOT NULL, 
	ordinal BIGINT NOT NULL, 
	session_key TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	provider TEXT NOT NULL, 
	model TEXT NOT NULL, 
	at_ms BIGINT NOT NULL, 
	duration_ms BIGINT, 
	input_tokens BIGINT NOT NULL, 
	output_tokens BIGINT NOT NULL, 
	cache_read_tokens BIGINT NOT NULL, 
	cache_write_tokens BIGINT NOT NULL, 
	cost_nanousd BIGINT, 
	CONSTRAINT pk_usage PRIMARY KEY (position)
);
INSERT INTO "usage" VALUES(1,'done',0,'agent:main:main','id of agent:main:main','main','openai','gpt-x',1700000001000,1000,120,30,5,0,1500000);
CREATE INDEX ix_devices_created ON devices (created_at_ms, device_id);
CREATE INDEX ix_device_tokens_device ON device_tokens (device_id, role, issued_at_ms);
CREATE INDEX ix_runs_state ON runs (state, position);
CREATE INDEX ix_runs_session ON runs (session_key, position);
CREATE INDEX ix_runs_ended ON runs (ended_at_ms);
CREATE INDEX ix_runs_log ON runs (position, log_bytes) WHERE log_bytes > 0;
CREATE INDEX ix_sessions_updated ON sessions (updated_at_ms, "key");
CREATE INDEX ix_sessions_agent ON sessions (agent_id, updated_at_ms, "key");
CREATE INDEX ix_sessions_parent ON sessions (parent_key, updated_at_ms, "key");
CREATE INDEX ix_sessions_label ON sessions (label);
CREATE INDEX ix_messages_system ON messages (session_id, seq) WHERE role = 'system';
CREATE INDEX ix_usage_at ON usage (at_ms);
CREATE INDEX ix_usage_session ON usage (session_key, at_ms);
COMMIT;
