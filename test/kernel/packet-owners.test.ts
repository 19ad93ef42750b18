/** Whose a reply is, against a plain model that has a list of who spoke to whom: whatever the records of ports say, which are guesses. */
import { expect, test } from 'vitest';
import { PORT, SEVERAL_LISTENERS } from '../../relay/engines/kernel/records.ts';
import { SeededBytes } from '../support/seeded-bytes.ts';
import { A, B, conversation } from './conversation.ts';
import { closing, DROP, MS, NEXT, type Outcome, PacketRig, whereAvailable } from './packet-rig.ts';

const STEPS = 20_000;
const IDLE_MS = 120_000;
const LISTENERS = ['198.51.100.1:7777', '198.51.100.2:7777', '198.51.100.1:8888'];
const CLIENTS = ['10.0.0.1:5000', '10.0.0.1:5001', '10.0.0.2:5000'];
const BACKENDS = { a: A, b: B };

interface Session {
  readonly listener: string;
  readonly client: string;
  backend: string;
  /** How often the backend had failed when the session came to it. */
  failures: number;
  heardMs: number;
  /** Whether the backend's replies to the client are its own. */
  isAnswered: boolean;
}

/** Sessions, and whose replies are late: no record of how they are found. */
class Model {
  readonly #sessions: Session[] = [];
  /** `backend client` where replies are late. */
  readonly #late = new Set<string>();
  readonly #failures = new Map<string, number>();
  readonly #down = new Set<string>();
  nowMs = 0;

  /** @param backend that the client's datagram went to; undefined: it was dropped */
  sent(client: string, listener: string, backend: string | undefined): void {
    let session = this.#of(client, listener);
    if (session !== undefined && this.#isOver(session)) this.ended(client, listener);
    session = this.#of(client, listener);
    if (session !== undefined) session.heardMs = this.nowMs;
    if (backend === undefined) return;
    const failures = this.#failures.get(backend) ?? 0;
    if (session === undefined) {
      session = { listener, client, backend, failures, heardMs: this.nowMs, isAnswered: false };
      this.#sessions.push(session);
    }
    if (session.backend !== backend) this.#leave(session);
    this.sentDirectly(client, backend);
    Object.assign(session, { backend, failures, isAnswered: true });
  }

  sentDirectly(client: string, backend: string): void {
    this.#late.delete(`${backend} ${client}`);
    const owner = this.#owner(client, backend);
    if (owner !== undefined) owner.isAnswered = false;
  }

  /** @returns whether there was a session */
  ended(client: string, listener: string): boolean {
    const session = this.#of(client, listener);
    if (session === undefined) return false;
    this.#leave(session);
    this.#sessions.splice(this.#sessions.indexOf(session), 1);
    return true;
  }

  changed(backend: string, isUp: boolean): void {
    if (isUp) this.#down.delete(backend);
    else if (!this.#down.has(backend)) {
      this.#down.add(backend);
      this.#failures.set(backend, (this.#failures.get(backend) ?? 0) + 1);
    }
  }

  /** From where the backend's datagram reaches the client; undefined: it is dropped. */
  sourceOf(backend: string, client: string): string | undefined {
    if (this.#late.has(`${backend} ${client}`)) return undefined;
    const owner = this.#owner(client, backend);
    if (owner === undefined) return backend;
    const isOn = owner.failures === (this.#failures.get(backend) ?? 0) && !this.#isOver(owner);
    return isOn ? owner.listener : undefined;
  }

  #leave(session: Session): void {
    if (session.isAnswered) this.#late.add(`${session.backend} ${session.client}`);
    session.isAnswered = false;
  }

  #isOver({ heardMs }: Session): boolean {
    return this.nowMs - heardMs >= IDLE_MS;
  }

  #of(client: string, listener: string): Session | undefined {
    return this.#sessions.find((one) => one.client === client && one.listener === listener);
  }

  #owner(client: string, backend: string): Session | undefined {
    return this.#sessions.find((one) => one.client === client && one.backend === backend && one.isAnswered);
  }
}

whereAvailable(() => {
  // Room for all rests: in here none comes to its end.
  const rig = closing(new PacketRig({ maxSessions: STEPS }));
  const { send, answer } = conversation(rig);

  const guess = (field: 'firstListener' | 'repliesTo', port: number, value: number): void => {
    const { ports } = rig.maps.mapped;
    ports.setU16(ports.at(port, PORT.at[field]), value);
  };
  const sourceIn = ({ verdict, packet }: Outcome): string | undefined => {
    expect([NEXT, DROP]).toContain(verdict);
    return verdict === DROP ? undefined : packet.source;
  };

  test('a reply is that session’s which its client spoke through last', async () => {
    await rig.reset();
    for (const [index, listen] of LISTENERS.entries()) rig.listen(listen, {}, index);
    await rig.backends(...Object.values(BACKENDS));
    const random = new SeededBytes('owners');
    const one = <T>(of: readonly T[]): T => of[random.integer(of.length - 1)]!;
    const model = new Model();
    const seen = { relayed: 0, direct: 0, dropped: 0 };
    for (let i = 0; i < STEPS; i++) {
      const [client, listener, id] = [one(CLIENTS), one(LISTENERS), one(['a', 'b'] as const)];
      const backend = BACKENDS[id];
      const what = random.integer(99);
      if (what < 40) {
        guess('repliesTo', 9_000, one([0, 1, 2, 3, SEVERAL_LISTENERS]));
        const source = sourceIn(answer(backend, { to: client }));
        expect(source, `answer ${i} of ${backend} to ${client}`).toBe(model.sourceOf(backend, client));
        seen[source === undefined ? 'dropped' : source === backend ? 'direct' : 'relayed']++;
      } else if (what < 75) {
        for (const port of [7_777, 8_888]) guess('firstListener', port, one([0, 1, 2]));
        const { verdict, packet } = send(client, { to: listener });
        model.sent(client, listener, verdict === DROP ? undefined : packet.destination);
      } else if (what < 83) {
        expect(send(client, { to: backend }).packet.destination).toBe(backend);
        model.sentDirectly(client, backend);
      } else if (what < 89) {
        rig.steward.add('endSession', rig.sessionKey(client, LISTENERS.indexOf(listener)));
        expect(rig.steward.flush()).toBe(model.ended(client, listener) ? 1 : 0);
      } else if (what < 96) {
        const ms = one([1_000, IDLE_MS / 2, IDLE_MS]);
        rig.advance(ms * MS);
        model.nowMs += ms;
      } else {
        const isUp = random.integer(1) === 0;
        rig.pool.setHealthy(id, isUp);
        await rig.publish();
        model.changed(backend, isUp);
      }
    }
    for (const [kind, count] of Object.entries(seen)) expect(count, kind).toBeGreaterThan(STEPS / 100);
  });
});
