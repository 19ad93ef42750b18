/** What keeps the programs attached, where the system refuses something. */
import assert from 'node:assert/strict';
import { expect, test } from 'vitest';
import { Endpoint } from '../../../../net/address.ts';
import type { Libc } from '../../../../net/linux/libc.ts';
import type { ListenerTable } from '../../../../relay/engines/kernel/listener-table.ts';
import type { Bpf } from '../../../../relay/engines/kernel/loader.ts';
import type { Attachments } from '../../../../relay/engines/kernel/programs.ts';
import { Reach } from '../../../../relay/engines/kernel/reach.ts';

/** A system in which every interface is there, and each of these calls fails. */
function reachOf({ failing }: { failing: readonly string[] }): {
  reach: Reach;
  calls: string[];
  troubles: string[];
} {
  const calls: string[] = [];
  const troubles: string[] = [];
  const call = (name: string): void => {
    calls.push(name);
    if (failing.includes(name)) throw new Error(`${name} failed`);
  };
  const attachments = {
    prune: () => call('prune'),
    add: ([name]: readonly string[]) => call(`add ${name}`),
  } as unknown as Attachments;
  const reach = new Reach({
    bpf: { libc: { if_nametoindex: () => 1 } as unknown as Libc } as unknown as Bpf,
    attachments,
    listeners: { all: () => [] } as unknown as ListenerTable,
    otherLocals: () => [Endpoint.parse('127.0.0.1:7777')],
    otherAddresses: () => [],
    pools: () => [],
    sourceAddress: 'client',
    interfaces: ['eth0', 'eth1'],
    onTrouble: (error) => {
      assert(error instanceof Error);
      troubles.push(error.message);
    },
  });
  return { reach, calls, troubles };
}

test('what fails is reported once, and the rest is done all the same', () => {
  const { reach, calls, troubles } = reachOf({ failing: ['prune', 'add eth0'] });
  for (let rounds = 0; rounds < 2; rounds++) reach.follow();
  expect(calls).toEqual(['prune', 'add eth0', 'add eth1', 'prune', 'add eth0', 'add eth1']);
  expect(troubles).toEqual(['prune failed', 'add eth0 failed']);
});
