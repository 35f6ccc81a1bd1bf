-- One row for each scheduled audit. The sink makes the table if it is missing, with this text; it needs no other right than SELECT, INSERT, UPDATE then.
CREATE TABLE IF NOT EXISTS fairness_reports (
    id          TEXT PRIMARY KEY,                   -- 32 hexadecimal digits, of the flow's name and the period: the same however often it is written
    created_at  TIMESTAMPTZ NOT NULL DEFAULT now(), -- when the row came first
    ref_start   TIMESTAMPTZ,                        -- the earliest start and the latest end of the references that the period's windows were
    ref_end     TIMESTAMPTZ,                        --   compared with; null without drift
    cur_start   TIMESTAMPTZ NOT NULL,               -- the period, inclusive
    cur_end     TIMESTAMPTZ NOT NULL,               --   and exclusive
    report_path TEXT,                               -- the page, below audit.schedule.reports; null without
    summary     JSONB NOT NULL                      -- schemas/postgresql/README.md
);
