/**
 * Who may play: names and passwords. Passwords are kept as scrypt verifiers, each with a salt of its own. The store is in
 * this process, or in PostgreSQL (postgres-accounts.ts).
 */
import { randomBytes, scrypt, timingSafeEqual } from 'node:crypto';
import { promisify } from 'node:util';
import { stubCredentials, type Credentials } from '../wire/login.ts';

const derive = promisify<string, Uint8Array, number, { N: number }, Buffer>(scrypt);

const VERIFIER_BYTES = 32;
const SALT_BYTES = 16;
/** Little work, for a stub that many bots log in to at once. A real service would ask for far more. */
const COST = { N: 1024 };

export interface Account {
  /** 0 to 65535. */
  readonly playerId: number;
  readonly salt: Uint8Array;
  readonly verifier: Uint8Array;
}

export interface Accounts {
  /** @returns undefined when there is none. A store that can't be asked throws. */
  find(name: string): Promise<Account | undefined>;
  close(): Promise<void>;
}

/** Of nobody: a name that is not there costs the same time as a wrong password. */
const NOBODY: Account = {
  playerId: 0,
  salt: new Uint8Array(SALT_BYTES),
  verifier: new Uint8Array(VERIFIER_BYTES),
};

/** @returns the player's id, or undefined when name or password is wrong */
export async function authenticate(accounts: Accounts, { name, password }: Credentials) {
  const account = await accounts.find(name);
  const { playerId, salt, verifier } = account ?? NOBODY;
  const derived = await derive(password, salt, VERIFIER_BYTES, COST);
  const isRight = timingSafeEqual(derived, verifier) && account !== undefined;
  return isRight ? playerId : undefined;
}

export async function createAccount(playerId: number, password: string): Promise<Account> {
  const salt = randomBytes(SALT_BYTES);
  return { playerId, salt, verifier: await derive(password, salt, VERIFIER_BYTES, COST) };
}

/** The stub game's accounts, in this process. */
export class MemoryAccounts implements Accounts {
  readonly #byName: ReadonlyMap<string, Account>;

  private constructor(byName: ReadonlyMap<string, Account>) {
    this.#byName = byName;
  }

  static async create(count: number): Promise<MemoryAccounts> {
    const accounts = Array.from({ length: count }, async (_, i): Promise<[string, Account]> => {
      const { name, password } = stubCredentials(i);
      return [name, await createAccount(i, password)];
    });
    return new MemoryAccounts(new Map(await Promise.all(accounts)));
  }

  find(name: string): Promise<Account | undefined> {
    return Promise.resolve(this.#byName.get(name));
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}
