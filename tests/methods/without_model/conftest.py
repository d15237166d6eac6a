from tests.contract.conftest import tiny_encoders as tiny_encoders
