import { expect, test } from 'vitest';
import { Endpoint, IpAddress } from '../../../net/address.ts';
import { answerWarnings } from '../../../relay/answer-warnings.ts';
import type { ListenerConfig } from '../../../relay/control/config.ts';

const on = (listen: string, protocol: 'udp' | 'tcp' = 'udp'): ListenerConfig =>
  ({ name: 'game', protocol, listen: Endpoint.parse(listen) }) as ListenerConfig;
const addresses = (...texts: string[]): IpAddress[] => texts.map((text) => IpAddress.parse(text));
const LOOPBACK = ['127.0.0.1', '::1', 'fe80::1'];

test('a wildcard listener of a machine with several addresses is named, with the addresses to take instead', () => {
  const local = addresses(...LOOPBACK, '10.0.0.3', '10.0.0.4', '2001:db8::1');
  for (const listen of ['0.0.0.0:7777', '[::]:7777']) {
    const [warning, ...rest] = answerWarnings([on(listen)], local);
    expect(rest).toEqual([]);
    expect(warning).toContain(`listener "game" on ${listen}`);
    expect(warning).toMatch(/take engine mmsg, or one listener for each of 10\.0\.0\.3, 10\.0\.0\.4$/);
  }
});

test('nothing is said where one address of each family leaves the route no choice', () => {
  const local = addresses(...LOOPBACK, '10.0.0.3', '2001:db8::1');
  expect(answerWarnings([on('0.0.0.0:7777'), on('[::]:7778')], local)).toEqual([]);
});

test('several IPv6 addresses concern [::] and not 0.0.0.0', () => {
  const local = addresses(...LOOPBACK, '10.0.0.3', '2001:db8::1', '2001:db8::2');
  expect(answerWarnings([on('0.0.0.0:7777')], local)).toEqual([]);
  expect(answerWarnings([on('[::]:7777')], local)[0]).toMatch(/each of 2001:db8::1, 2001:db8::2$/);
});

test('listeners on one address and TCP listeners answer from where they were contacted', () => {
  const local = addresses('10.0.0.3', '10.0.0.4');
  expect(answerWarnings([on('10.0.0.3:7777'), on('0.0.0.0:7777', 'tcp')], local)).toEqual([]);
});
