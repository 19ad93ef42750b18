/** Why the kernel engine can't run somewhere, in words that say what to do. */
import { expect, test } from 'vitest';
import { whyNoCapability, whyOldKernel } from '../../../relay/engines/kernel/availability.ts';

test('kernels before 6.6 are too old, later ones are not', () => {
  expect(whyOldKernel('6.5.0-45-generic')).toContain('Linux 6.6 or later, this is 6.5.0-45-generic');
  expect(whyOldKernel('5.15.0-91-generic')).toContain('6.6');
  for (const version of ['6.6.0', '6.8.0-31-generic', '6.18.5+', '7.0.1'])
    expect(whyOldKernel(version)).toBeUndefined();
});

test('a process without the capabilities is told which it lacks', () => {
  const netAdmin = 1n << 12n;
  const perfmon = 1n << 38n;
  const bpf = 1n << 39n;
  expect(whyNoCapability(0n)).toMatch(/needs CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN; run as root/);
  expect(whyNoCapability(netAdmin | bpf)).toMatch(/needs CAP_PERFMON;/);
  expect(whyNoCapability(bpf | perfmon)).toMatch(/needs CAP_NET_ADMIN;/);
  expect(whyNoCapability(1n << 21n)).toMatch(/needs CAP_NET_ADMIN;/);
  expect(whyNoCapability(bpf | perfmon | netAdmin)).toBeUndefined();
  expect(whyNoCapability((1n << 21n) | netAdmin)).toBeUndefined();
});
