/**
 * Accounts in a PostgreSQL database, which may be reached through a relay: a connection that is cut is opened again, once
 * for each question, so that the death of one server among several is not noticed.
 *
 *     create table players (id integer primary key, name text unique, salt bytea, verifier bytea)
 */
import { Client, Pool } from 'pg';
import { stubCredentials } from '../wire/login.ts';
import { createAccount, type Account, type Accounts } from './accounts.ts';

const CONNECTIONS = 4;
const CONNECT_TIMEOUT_MS = 3_000;
const QUERY_TIMEOUT_MS = 5_000;

const SCHEMA = `create table if not exists players (
  id integer primary key check (id between 0 and 65535),
  name text not null unique,
  salt bytea not null,
  verifier bytea not null
)`;
const FIND = 'select id, salt, verifier from players where name = $1';
const INSERT =
  'insert into players (id, name, salt, verifier) values ($1, $2, $3, $4) on conflict do nothing';

interface PlayerRow {
  readonly id: number;
  readonly salt: Buffer;
  readonly verifier: Buffer;
}

export class PostgresAccounts implements Accounts {
  readonly #pool: Pool;

  /** @param url such as `postgres://user:password@10.0.0.3:5432/login` */
  constructor(url: string) {
    this.#pool = new Pool({
      connectionString: url,
      max: CONNECTIONS,
      connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
      query_timeout: QUERY_TIMEOUT_MS,
    });
    // Of an idle connection that was cut: the next question opens another one.
    this.#pool.on('error', () => undefined);
  }

  async find(name: string): Promise<Account | undefined> {
    const row = await this.#ask(name).catch(() => this.#ask(name));
    return row && { playerId: row.id, salt: row.salt, verifier: row.verifier };
  }

  close(): Promise<void> {
    return this.#pool.end();
  }

  async #ask(name: string): Promise<PlayerRow | undefined> {
    const { rows } = await this.#pool.query<PlayerRow>(FIND, [name]);
    return rows[0];
  }
}

/**
 * Makes the table and the stub game's accounts, where they are not there yet.
 *
 * @param firstId of player-0; the others count up from it
 */
export async function createPlayers(url: string, count: number, firstId = 0): Promise<void> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    await client.query(SCHEMA);
    for (let i = 0; i < count; i++) {
      const { name, password } = stubCredentials(i);
      const { playerId, salt, verifier } = await createAccount(firstId + i, password);
      await client.query(INSERT, [playerId, name, salt, verifier]);
    }
  } finally {
    await client.end();
  }
}
