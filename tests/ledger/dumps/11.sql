BEGIN TRANSACTION;
CREATE TABLE answers (
        number INTEGER PRIMARY KEY,
        digest BLOB NOT NULL UNIQUE,
        task_id TEXT NOT NULL,
        finished_at REAL NOT NULL,
        body BLOB NOT NULL
    ) STRICT;
INSERT INTO "answers" VALUES(1,X'5B1D9059FCDF7F55D8A5B22A70168DD7','delivered',1753900040.0,X'5B302E355D');
CREATE TABLE breakers (
        service TEXT PRIMARY KEY,
        state TEXT NOT NULL DEFAULT 'closed' CHECK (state IN ('closed', 'open', 'half-open')),
        failures INTEGER NOT NULL DEFAULT 0,
        opened_at REAL,
        probe_slot INTEGER,
        reason TEXT NOT NULL DEFAULT ''
    , setup TEXT NOT NULL DEFAULT '') STRICT, WITHOUT ROWID;
INSERT INTO "breakers" VALUES('api','closed',0,NULL,NULL,'','');
INSERT INTO "breakers" VALUES('oauth','closed',0,NULL,NULL,'','');
INSERT INTO "breakers" VALUES('ollama','closed',0,NULL,NULL,'','');
INSERT INTO "breakers" VALUES('openai','closed',0,NULL,NULL,'','');
INSERT INTO "breakers" VALUES('wikidata','closed',0,NULL,NULL,'','');
CREATE TABLE budgets (
        period TEXT PRIMARY KEY CHECK (period IN ('day', 'month')),
        currency TEXT NOT NULL,
        allowed INTEGER CHECK (allowed > 0),
        warned_until REAL NOT NULL DEFAULT 0,
        kept_back_until REAL NOT NULL DEFAULT 0
    ) STRICT, WITHOUT ROWID;
INSERT INTO "budgets" VALUES('day','USD',1000000000,0.0,0.0);
INSERT INTO "budgets" VALUES('month','USD',NULL,0.0,0.0);
CREATE TABLE cache (
        number INTEGER PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,
        value BLOB NOT NULL,
        stored_at REAL NOT NULL,
        expires_at REAL NOT NULL
    ) STRICT;
INSERT INTO "cache" VALUES(1,'wikidata/pt/São Paulo',X'5B2251313734225D',1753900040.0,1753986440.0);
CREATE TABLE contents (
        seq INTEGER PRIMARY KEY REFERENCES tasks (seq),
        content BLOB NOT NULL
    ) STRICT;
INSERT INTO "contents" VALUES(1,X'7B2274657874223A202253C3A36F205061756C6F2C2072656675736564227D');
INSERT INTO "contents" VALUES(2,X'7B2274657874223A202253C3A36F205061756C6F2C206C61746572227D');
INSERT INTO "contents" VALUES(4,X'7B2274657874223A202253C3A36F205061756C6F2C2066696E6973686564227D');
INSERT INTO "contents" VALUES(5,X'7B2274657874223A202253C3A36F205061756C6F2C20636C61696D6564227D');
INSERT INTO "contents" VALUES(6,X'7B2274657874223A202253C3A36F205061756C6F2C207265616479227D');
CREATE TABLE cooldowns (
        provider TEXT NOT NULL,
        model TEXT NOT NULL,
        until REAL NOT NULL,
        reason TEXT NOT NULL, awaited INTEGER NOT NULL DEFAULT 0 CHECK (awaited IN (0, 1)), since REAL NOT NULL DEFAULT 0, guessed INTEGER NOT NULL DEFAULT 0 CHECK (guessed IN (0, 1)),
        PRIMARY KEY (provider, model)
    ) STRICT, WITHOUT ROWID;
CREATE TABLE evidence (
        seq INTEGER PRIMARY KEY REFERENCES tasks (seq),
        world INTEGER NOT NULL,
        good_before INTEGER NOT NULL,
        service_before INTEGER NOT NULL,
        account_before INTEGER NOT NULL,
        input_before INTEGER NOT NULL,
        answer_before INTEGER NOT NULL,
        service INTEGER NOT NULL DEFAULT 0,
        account INTEGER NOT NULL DEFAULT 0,
        input INTEGER NOT NULL DEFAULT 0,
        answer INTEGER NOT NULL DEFAULT 0,
        failed_in_row INTEGER NOT NULL DEFAULT 1 CHECK (failed_in_row IN (0, 1))
    ) STRICT;
INSERT INTO "evidence" VALUES(2,2,0,1,0,0,0,1,0,0,0,1);
CREATE TABLE failures (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        provider TEXT NOT NULL,
        world INTEGER NOT NULL,
        culprit TEXT NOT NULL,
        tasks TEXT NOT NULL
    ) STRICT;
INSERT INTO "failures" VALUES(1,'',2,'service','[2]');
CREATE TABLE habits (
        provider TEXT NOT NULL,
        model TEXT NOT NULL,
        type TEXT NOT NULL,
        input_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        PRIMARY KEY (provider, model, type)
    ) STRICT, WITHOUT ROWID;
INSERT INTO "habits" VALUES('openai','text-embedding-3-small','text_embedding',3750,7500);
CREATE TABLE kinds (
        id INTEGER PRIMARY KEY,
        type TEXT NOT NULL,
        model TEXT NOT NULL,
        failed_at TEXT NOT NULL DEFAULT '', suspects_last INTEGER NOT NULL DEFAULT 0 CHECK (suspects_last IN (0, 1)),
        UNIQUE (type, model, failed_at)
    ) STRICT;
INSERT INTO "kinds" VALUES(1,'text_embedding','text-embedding-3-small','',0);
INSERT INTO "kinds" VALUES(2,'defining_topics','o3-mini','',0);
CREATE TABLE ledger (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        version INTEGER NOT NULL,
        sequence INTEGER NOT NULL DEFAULT 0,
        strategy TEXT NOT NULL DEFAULT 'rolling' CHECK (strategy IN ('rolling', 'fixed')),
        timezone TEXT NOT NULL DEFAULT 'UTC',
        paused INTEGER NOT NULL DEFAULT 0 CHECK (paused IN (0, 1))
    , reuse_scope TEXT NOT NULL DEFAULT '', reuse_after INTEGER NOT NULL DEFAULT 0, worlds_version INTEGER NOT NULL DEFAULT 0) STRICT;
INSERT INTO "ledger" VALUES(1,11,7,'fixed','America/Sao_Paulo',0,'',0,5);
CREATE TABLE limits (
        period TEXT PRIMARY KEY,
        allowed INTEGER NOT NULL CHECK (allowed > 0),
        warned_until REAL NOT NULL DEFAULT 0
    ) STRICT, WITHOUT ROWID;
INSERT INTO "limits" VALUES('day',500,0.0);
INSERT INTO "limits" VALUES('minute',20,0.0);
CREATE TABLE minutes (
        minute INTEGER PRIMARY KEY,
        calls INTEGER NOT NULL,
        succeeded INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        returned INTEGER NOT NULL,
        seconds REAL NOT NULL,
        slowest REAL NOT NULL
    ) STRICT;
INSERT INTO "minutes" VALUES(29231666,1,1,0,0,0.0,0.0);
INSERT INTO "minutes" VALUES(29231667,4,2,0,2,0.0,0.0);
CREATE TABLE polls (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        slot INTEGER,
        began_sequence INTEGER NOT NULL DEFAULT 0,
        began_at REAL,
        regular_at REAL,
        succeeded_at REAL,
        failures INTEGER NOT NULL DEFAULT 0,
        more_there INTEGER NOT NULL DEFAULT 0,
        problem TEXT
    ) STRICT;
INSERT INTO "polls" VALUES(1,NULL,7,1753900040.0,1753900070.0,1753900040.0,0,0,NULL);
CREATE TABLE processors (
        type TEXT PRIMARY KEY,
        bugs INTEGER NOT NULL DEFAULT 0,
        paused_until REAL
    ) STRICT, WITHOUT ROWID;
CREATE TABLE rate_limits (
        time_period TEXT PRIMARY KEY,
        current_count INTEGER NOT NULL,
        window_start TEXT NOT NULL,
        window_end TEXT NOT NULL,
        last_updated TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
INSERT INTO "rate_limits" VALUES('day',5,'2025-07-30 03:00:00','2025-07-31 03:00:00','2025-07-30 18:27:20');
INSERT INTO "rate_limits" VALUES('hour',5,'2025-07-30 18:00:00','2025-07-30 19:00:00','2025-07-30 18:27:20');
INSERT INTO "rate_limits" VALUES('minute',4,'2025-07-30 18:27:00','2025-07-30 18:28:00','2025-07-30 18:27:20');
INSERT INTO "rate_limits" VALUES('month',5,'2025-07-01 03:00:00','2025-08-01 03:00:00','2025-07-30 18:27:20');
INSERT INTO "rate_limits" VALUES('week',5,'2025-07-28 03:00:00','2025-08-04 03:00:00','2025-07-30 18:27:20');
CREATE TABLE request_profiles (
        provider TEXT NOT NULL,
        model TEXT NOT NULL,
        setup TEXT NOT NULL,
        left_out TEXT NOT NULL,
        guessed TEXT NOT NULL,
        kept TEXT NOT NULL,
        tasks TEXT NOT NULL DEFAULT '[]',
        reason TEXT NOT NULL,
        since REAL NOT NULL,
        PRIMARY KEY (provider, model)
    ) STRICT, WITHOUT ROWID;
INSERT INTO "request_profiles" VALUES('openai','text-embedding-3-small','','dimensions','','','[]','400: dimensions',1753900040.0);
CREATE TABLE reservations (
        slot INTEGER PRIMARY KEY,
        currency TEXT NOT NULL,
        nano INTEGER NOT NULL
    ) STRICT;
INSERT INTO "reservations" VALUES(101,'USD',33781000);
CREATE TABLE results (
        seq INTEGER PRIMARY KEY REFERENCES tasks (seq),
        status TEXT NOT NULL CHECK (status IN ('succeeded', 'failed')),
        body BLOB,
        reason TEXT NOT NULL DEFAULT '',
        finished_at REAL NOT NULL,
        deliveries INTEGER NOT NULL DEFAULT 0,
        refusal TEXT,
        refused_at REAL,
        CHECK ((status = 'succeeded') = (body IS NOT NULL))
    ) STRICT;
INSERT INTO "results" VALUES(1,'succeeded',X'5B302E355D','succeeded',1753900000.0,0,'404: no such task',1753900000.0);
INSERT INTO "results" VALUES(4,'succeeded',X'5B302E355D','succeeded',1753900040.0,0,NULL,NULL);
CREATE TABLE spending (
        currency TEXT NOT NULL,
        starts INTEGER NOT NULL,
        ends INTEGER NOT NULL,
        nano INTEGER NOT NULL,
        PRIMARY KEY (currency, starts)
    ) STRICT, WITHOUT ROWID;
INSERT INTO "spending" VALUES('USD',1753844400,1753930800,41033000);
CREATE TABLE spending_minutes (
        currency TEXT NOT NULL,
        minute INTEGER NOT NULL,
        nano INTEGER NOT NULL,
        PRIMARY KEY (currency, minute)
    ) STRICT, WITHOUT ROWID;
INSERT INTO "spending_minutes" VALUES('USD',29231667,41033000);
CREATE TABLE task_completions (
        id INTEGER PRIMARY KEY,
        completed_at REAL NOT NULL,
        task_type TEXT NOT NULL,
        task_id TEXT NOT NULL
    , is_first INTEGER NOT NULL DEFAULT 0) STRICT;
INSERT INTO "task_completions" VALUES(1,1753900000.0,'text_embedding','refused',1);
INSERT INTO "task_completions" VALUES(2,1753900040.0,'defining_topics','later',1);
INSERT INTO "task_completions" VALUES(3,1753900040.0,'text_embedding','delivered',1);
INSERT INTO "task_completions" VALUES(4,1753900040.0,'text_embedding','delivered',1);
INSERT INTO "task_completions" VALUES(5,1753900040.0,'text_embedding','finished',1);
CREATE TABLE tasks (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        kind INTEGER NOT NULL REFERENCES kinds (id),
        state TEXT NOT NULL CHECK (state IN ('ready', 'claimed', 'finished', 'dead')),
        slot INTEGER,
        due_at REAL,
        attempts INTEGER NOT NULL DEFAULT 0,
        crashes INTEGER NOT NULL DEFAULT 0,
        batch_limit INTEGER,
        size INTEGER NOT NULL DEFAULT 0,
        provider TEXT,
        entered_sequence INTEGER NOT NULL,
        entered_at REAL NOT NULL,
        missed INTEGER NOT NULL DEFAULT 0, digest BLOB, twin_of INTEGER CHECK (twin_of IS NULL OR state = 'ready'), world INTEGER, is_suspect INTEGER NOT NULL DEFAULT 0 CHECK (is_suspect IN (0, 1)),
        CHECK ((state = 'claimed') <= (slot IS NOT NULL)),
        CHECK ((state IN ('ready', 'dead')) <= (slot IS NULL))
    ) STRICT;
INSERT INTO "tasks" VALUES(1,'refused',1,'dead',NULL,NULL,0,0,NULL,31,'openai',1,1753900000.0,0,X'1AAB400F4E75810A1E0167F3FC12C61E',NULL,1,0);
INSERT INTO "tasks" VALUES(2,'later',2,'ready',NULL,1753900042.0,1,0,NULL,29,'openai',2,1753900040.0,0,X'6A843DCAC173C36C357E46DCD52A1C8E',NULL,2,1);
INSERT INTO "tasks" VALUES(4,'finished',1,'finished',NULL,NULL,0,0,NULL,32,'openai',5,1753900040.0,0,X'F67DADF868108B7F5703FD1333BEDCB8',NULL,3,0);
INSERT INTO "tasks" VALUES(5,'claimed',1,'claimed',101,NULL,0,0,NULL,31,'openai',6,1753900040.0,0,X'74F9E4DCAE35777097F88F1D412A4BF6',NULL,3,0);
INSERT INTO "tasks" VALUES(6,'ready',1,'ready',NULL,NULL,0,0,NULL,29,NULL,7,1753900040.0,0,X'2C75DBFBCF6493BEA6DBCB2AE0B8CF54',NULL,NULL,0);
CREATE TABLE tombstones (
        id TEXT PRIMARY KEY,
        sequence INTEGER NOT NULL,
        delivered_at REAL NOT NULL
    , delivered_uptime REAL NOT NULL DEFAULT 0) STRICT, WITHOUT ROWID;
INSERT INTO "tombstones" VALUES('delivered',4,1753900040.0,1753900040.0);
CREATE TABLE troubles (
        number INTEGER PRIMARY KEY,
        source TEXT NOT NULL,
        type TEXT NOT NULL,
        ending TEXT NOT NULL,
        reason TEXT NOT NULL,
        first_at REAL NOT NULL,
        last_at REAL NOT NULL,
        times INTEGER NOT NULL,
        task_id TEXT NOT NULL,
        UNIQUE (source, type, ending, reason)
    ) STRICT;
INSERT INTO "troubles" VALUES(1,'api','text_embedding','dead letter','404: no such task',1753900000.0,1753900000.0,1,'refused');
INSERT INTO "troubles" VALUES(2,'openai','defining_topics','retry','retry',1753900040.0,1753900040.0,1,'later');
INSERT INTO "troubles" VALUES(3,'openai','text_embedding','adapted','',1753900040.0,1753900040.0,1,'delivered');
CREATE TABLE unpriced (
        provider TEXT NOT NULL,
        model TEXT NOT NULL,
        PRIMARY KEY (provider, model)
    ) STRICT, WITHOUT ROWID;
CREATE TABLE unreadable (
        id TEXT PRIMARY KEY,
        reason TEXT NOT NULL,
        missed INTEGER NOT NULL DEFAULT 0
    ) STRICT, WITHOUT ROWID;
INSERT INTO "unreadable" VALUES('unreadable','no content',0);
CREATE TABLE worlds (
        id INTEGER PRIMARY KEY,
        provider TEXT NOT NULL,
        model TEXT NOT NULL,
        type TEXT NOT NULL,
        setup TEXT NOT NULL,
        left_out TEXT NOT NULL,
        proven INTEGER NOT NULL DEFAULT 0 CHECK (proven IN (0, 1)),
        tried_at REAL NOT NULL DEFAULT 0,
        good INTEGER NOT NULL DEFAULT 0,
        service INTEGER NOT NULL DEFAULT 0,
        account INTEGER NOT NULL DEFAULT 0,
        input INTEGER NOT NULL DEFAULT 0,
        answer INTEGER NOT NULL DEFAULT 0,
        culprit TEXT NOT NULL DEFAULT '',
        reason TEXT NOT NULL DEFAULT '',
        pauses INTEGER NOT NULL DEFAULT 0,
        paused_since REAL,
        paused_until REAL,
        probe_slot INTEGER,
        UNIQUE (provider, model, type, setup, left_out)
    ) STRICT;
INSERT INTO "worlds" VALUES(1,'openai','text-embedding-3-small','text_embedding','','',1,0.0,1,0,0,1,0,'','',0,NULL,NULL,NULL);
INSERT INTO "worlds" VALUES(2,'openai','o3-mini','defining_topics','','',0,0.0,0,1,0,0,0,'','',0,NULL,NULL,NULL);
INSERT INTO "worlds" VALUES(3,'openai','text-embedding-3-small','text_embedding','','dimensions',1,0.0,2,0,0,0,0,'','',0,NULL,NULL,NULL);
CREATE INDEX tasks_later ON tasks (state, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX tasks_claimed ON tasks (slot, kind) WHERE state = 'claimed';
CREATE INDEX tasks_finished ON tasks (slot, seq) WHERE state = 'finished' AND due_at IS NULL;
CREATE INDEX tombstones_sequence ON tombstones (sequence);
CREATE INDEX task_completions_first ON task_completions (completed_at) WHERE is_first = 1;
CREATE INDEX tasks_digest ON tasks (digest) WHERE digest IS NOT NULL;
CREATE INDEX tasks_twins ON tasks (twin_of, seq) WHERE twin_of IS NOT NULL;
CREATE INDEX tasks_ready ON tasks (kind, is_suspect, seq, due_at, batch_limit, twin_of, state)
        WHERE state = 'ready' AND due_at IS NULL AND twin_of IS NULL;
CREATE INDEX tasks_suspect ON tasks (kind, state, due_at, attempts, seq, batch_limit) WHERE is_suspect = 1;
CREATE INDEX evidence_world ON evidence (world, failed_in_row);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('tasks',6);
INSERT INTO "sqlite_sequence" VALUES('failures',2);
COMMIT;
